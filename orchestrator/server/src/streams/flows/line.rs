//! What a client reads of the flow log: one JSON object a line. A name in a namespace whose flows the reader may not
//! list is left out; the address and the tenant stay, because that is what the other end learns anyway.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use waggle_api::access::Action;
use waggle_wire::v1;
use waggle_wire::v1::FlowEndKind as Kind;

use crate::auth::{User, decide};
use crate::objects::Objects;
use crate::sessions::Sessions;

/// Makes lines for one reader.
pub(super) struct Lines {
    objects: Arc<Objects>,
    sessions: Sessions,
    user: User,
    /// Namespaces that were asked about, and whether the reader may list their flows.
    seen: HashMap<String, bool>,
    tenants: BTreeMap<u32, String>,
}

impl Lines {
    /// For `user`.
    pub(super) fn new(objects: Arc<Objects>, sessions: Sessions, user: User) -> Self {
        Self {
            objects,
            sessions,
            user,
            seen: HashMap::new(),
            tenants: BTreeMap::new(),
        }
    }

    /// A verdict.
    pub(super) fn flow(&mut self, node: &str, flow: &v1::Flow) -> Bytes {
        let verdict = match flow.verdict() {
            v1::FlowVerdict::Drop => "drop",
            v1::FlowVerdict::Forward => "forward",
            v1::FlowVerdict::Translate => "translate",
            v1::FlowVerdict::Unspecified => "unknown",
        };
        let mut value = json!({
            "type": "flow",
            "time": time(flow.time_ns),
            "node": node,
            "verdict": verdict,
            "reason": flow.reason,
            "message": flow.message,
            "hook": flow.hook,
        });
        if flow.protocol != 0 {
            value["protocol"] = json!(protocol_name(flow.protocol));
        }
        for (field, end) in [("source", &flow.source), ("destination", &flow.destination)] {
            if let Some(end) = end {
                value[field] = self.end(end);
            }
        }
        line(&value)
    }

    fn end(&mut self, end: &v1::FlowEnd) -> Value {
        let kind = match end.kind() {
            Kind::Pod => "pod",
            Kind::Service => "service",
            Kind::Node => "node",
            Kind::Outside => "outside",
        };
        let mut value = json!({"address": end.address, "kind": kind});
        if end.port != 0 {
            value["port"] = json!(end.port);
        }
        if let Some(tenant) = self.tenant(end.tenant) {
            value["tenant"] = json!(tenant);
        }
        if end.namespace.is_empty() || self.sees(&end.namespace) {
            for (field, text) in [("namespace", &end.namespace), ("name", &end.name)] {
                if !text.is_empty() {
                    value[field] = json!(text);
                }
            }
        }
        value
    }

    fn tenant(&mut self, number: u32) -> Option<String> {
        if number == 0 {
            return None;
        }
        if !self.tenants.contains_key(&number) {
            let registry = self.sessions.registry();
            let names = registry.tenants().map(|(name, id)| (id.0, name.to_owned()));
            self.tenants = names.collect();
        }
        let name = self.tenants.get(&number).cloned();
        Some(name.unwrap_or_else(|| number.to_string()))
    }

    fn sees(&mut self, namespace: &str) -> bool {
        if let Some(known) = self.seen.get(namespace) {
            return *known;
        }
        let action = Action {
            verb: "list".into(),
            group: "waggle.dev".into(),
            resource: "flows".into(),
            namespace: namespace.into(),
            ..Action::default()
        };
        let sees = decide(&self.objects, &self.user, &action).is_some();
        self.seen.insert(namespace.to_owned(), sees);
        sees
    }
}

/// Verdicts that are not told.
pub(super) fn skipped(node: &str, skipped: &v1::FlowsSkipped) -> Bytes {
    line(&json!({
        "type": "skipped", "time": time(skipped.time_ns), "node": node, "count": skipped.count,
        "message": format!("{} verdicts came faster than they are told; they are in the counters", skipped.count),
    }))
}

/// Something that the reader should know of a node.
pub(super) fn note(kind: &str, node: &str, message: &str) -> Bytes {
    line(&json!({"type": kind, "node": node, "message": message}))
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

fn time(ns: u64) -> String {
    let time = Timestamp::from_nanosecond(ns.into()).unwrap_or_default();
    format!("{time:.6}")
}

const PROTOCOLS: [(&str, u8); 5] = [
    ("tcp", 6),
    ("udp", 17),
    ("sctp", 132),
    ("icmp", 1),
    ("icmpv6", 58),
];

fn protocol_name(number: u32) -> String {
    let known = PROTOCOLS.iter().find(|(_, one)| u32::from(*one) == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// IANA number of a protocol, by name or number.
pub(super) fn protocol_number(text: &str) -> Option<u8> {
    let text = text.to_ascii_lowercase();
    let known = PROTOCOLS.iter().find(|(name, _)| *name == text);
    known.map_or_else(
        || text.parse().ok().filter(|number| *number != 0),
        |(_, number)| Some(*number),
    )
}
