//! What extends the API: CustomResourceDefinitions, webhooks, signing requests.

use serde_json::Value;

use super::{meta, names, one_of};
use crate::admission::condition;
use crate::walk::{has, list, text};
use crate::{Fault, RESOURCES, custom};

/// Most `matchConditions` of a webhook.
const MOST_CONDITIONS: usize = 64;

/// Faults of a CustomResourceDefinition.
pub(crate) fn custom_resource_definition(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("CustomResourceDefinition", value, old, &mut out);
    let spec = &value["spec"];
    let (group, plural) = (text(spec, &["group"]), text(spec, &["names", "plural"]));
    if group.is_empty() {
        out.push(Fault::required("spec.group", ""));
    } else if names::subdomain(group).is_some() || !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        out.push(Fault::invalid("spec.group", group, detail));
    }
    if RESOURCES.iter().any(|row| row.group == group) {
        let detail = "is a group of the server's own kinds: take another";
        out.push(Fault::invalid("spec.group", group, detail));
    }
    if spec["preserveUnknownFields"] == true {
        let detail = "must be false: use x-kubernetes-preserve-unknown-fields in the schema";
        out.push(Fault::invalid("spec.preserveUnknownFields", true, detail));
    }
    let expect = format!("{plural}.{group}");
    if text(value, &["metadata", "name"]) != expect {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        out.push(Fault::invalid(
            "metadata.name",
            text(value, &["metadata", "name"]),
            detail,
        ));
    }
    for field in ["plural", "singular"] {
        let name = text(spec, &["names", field]);
        if let Some(rule) = names::dns_1035(name) {
            out.push(Fault::invalid(format!("spec.names.{field}"), name, rule));
        }
    }
    for field in ["kind", "listKind"] {
        let name = text(spec, &["names", field]);
        if let Some(rule) = names::dns_1035(&name.to_lowercase()) {
            out.push(Fault::invalid(format!("spec.names.{field}"), name, rule));
        }
    }
    let scopes = ["Cluster", "Namespaced"];
    if text(spec, &["scope"]).is_empty() {
        out.push(Fault::required("spec.scope", ""));
    } else {
        one_of(&spec["scope"], &scopes, "spec.scope", &mut out);
    }
    custom::conversion::faults(&spec["conversion"], &mut out);
    versions(spec, old.map(|old| &old["spec"]), &mut out);
    if let Some(old) = old {
        for path in [["spec", "group"], ["spec", "scope"]] {
            meta::immutable(value, old, &path, &mut out);
        }
        meta::immutable(value, old, &["spec", "names", "plural"], &mut out);
    }
    out
}

fn versions(spec: &Value, old: Option<&Value>, out: &mut Vec<Fault>) {
    let versions = list(spec, &["versions"]);
    let stored = versions.iter().filter(|one| one["storage"] == true).count();
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        out.push(Fault::invalid("spec.versions", Value::Null, detail));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = text(version, &["name"]);
        if let Some(rule) = names::dns_1035(name) {
            out.push(Fault::invalid(format!("{path}.name"), name, rule));
        }
        if !seen.insert(name) {
            out.push(Fault::duplicate(format!("{path}.name"), name));
        }
        custom::expression_faults(version, &path, out);
        let schema = &version["schema"]["openAPIV3Schema"];
        let path = format!("{path}.schema.openAPIV3Schema");
        if schema.is_null() {
            out.push(Fault::required(path, "schemas are required"));
        } else {
            custom::schema_faults(schema, &path, out);
            // Rules that were let in once stay as they are.
            let mut before = old.into_iter().flat_map(|old| list(old, &["versions"]));
            if !before.any(|one| &one["schema"]["openAPIV3Schema"] == schema) {
                custom::rule_faults(schema, &path, out);
            }
        }
    }
}

/// Faults of a MutatingWebhookConfiguration or ValidatingWebhookConfiguration.
pub(crate) fn webhooks(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check(text(value, &["kind"]), value, old, &mut out);
    let mut seen = std::collections::BTreeSet::new();
    for (index, hook) in list(value, &["webhooks"]).iter().enumerate() {
        let path = format!("webhooks[{index}]");
        let name = text(hook, &["name"]);
        if names::subdomain(name).is_some() || name.split('.').count() < 3 {
            let detail = "should be a domain with at least three segments separated by dots";
            out.push(Fault::invalid(format!("{path}.name"), name, detail));
        }
        if !seen.insert(name) {
            out.push(Fault::duplicate(format!("{path}.name"), name));
        }
        let (url, service) = (
            has(hook, &["clientConfig", "url"]),
            has(hook, &["clientConfig", "service"]),
        );
        if url == service {
            let detail = "exactly one of url or service is required";
            out.push(Fault::required(format!("{path}.clientConfig"), detail));
        }
        one_of(
            &hook["failurePolicy"],
            &["Fail", "Ignore"],
            &format!("{path}.failurePolicy"),
            &mut out,
        );
        let effects = &hook["sideEffects"];
        if effects.is_null() {
            out.push(Fault::required(
                format!("{path}.sideEffects"),
                "must specify one of None, NoneOnDryRun",
            ));
        } else {
            one_of(
                effects,
                &["None", "NoneOnDryRun"],
                &format!("{path}.sideEffects"),
                &mut out,
            );
        }
        conditions(hook, &path, &mut out);
        if list(hook, &["admissionReviewVersions"]).is_empty() {
            let detail = "must specify one of v1, v1beta1";
            out.push(Fault::required(
                format!("{path}.admissionReviewVersions"),
                detail,
            ));
        }
        if hook["timeoutSeconds"]
            .as_i64()
            .is_some_and(|seconds| !(1..=30).contains(&seconds))
        {
            let detail = "the timeout value must be between 1 and 30 seconds";
            out.push(Fault::invalid(
                format!("{path}.timeoutSeconds"),
                hook["timeoutSeconds"].clone(),
                detail,
            ));
        }
    }
    out
}

/// Faults of `matchConditions`.
fn conditions(hook: &Value, path: &str, out: &mut Vec<Fault>) {
    let all = list(hook, &["matchConditions"]);
    let path = format!("{path}.matchConditions");
    if all.len() > MOST_CONDITIONS {
        out.push(Fault::too_many(&path, all.len(), MOST_CONDITIONS));
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, one) in all.iter().enumerate() {
        let (name, source) = (text(one, &["name"]), text(one, &["expression"]));
        let path = format!("{path}[{index}]");
        if name.is_empty() {
            out.push(Fault::required(format!("{path}.name"), ""));
        } else if let Some(rule) = names::qualified_name(name) {
            out.push(Fault::invalid(format!("{path}.name"), name, rule));
        } else if !seen.insert(name) {
            out.push(Fault::duplicate(format!("{path}.name"), name));
        }
        let path = format!("{path}.expression");
        if source.trim().is_empty() {
            out.push(Fault::required(path, ""));
        } else if let Err(why) = condition::compiled(source) {
            out.push(Fault::invalid(path, source, why));
        }
    }
}

/// Faults of a CertificateSigningRequest.
pub(crate) fn signing_request(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("CertificateSigningRequest", value, old, &mut out);
    if text(value, &["spec", "request"]).is_empty() {
        out.push(Fault::required("spec.request", ""));
    }
    let signer = text(value, &["spec", "signerName"]);
    if signer.is_empty() {
        out.push(Fault::required("spec.signerName", ""));
    } else if !signer.contains('/') || !signer.contains('.') {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        out.push(Fault::invalid("spec.signerName", signer, detail));
    }
    if list(value, &["spec", "usages"]).is_empty() {
        out.push(Fault::required(
            "spec.usages",
            "usages must contain at least one value",
        ));
    }
    if let Some(old) = old {
        meta::immutable(value, old, &["spec"], &mut out);
    }
    out
}
