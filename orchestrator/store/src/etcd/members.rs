//! The members of an etcd cluster: one connection each, which of them is asked, and what its faults mean. A request that
//! a member can't answer now goes to the next, bounded in time.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, ConnectOptions, Error as Fault, Identity, KvClient, TlsOptions,
};
use tonic::Code;

use super::EtcdOptions;
use crate::Error;

/// How long a member may take to accept a connection, and to answer a request.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);
/// How long members are tried before a request is given up.
const PATIENCE: Duration = Duration::from_secs(15);
/// First and longest rest between two tries.
const RESTS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// A silent connection is asked whether it lives; etcd refuses to be asked more often than each 5 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));
/// Largest answer, bytes.
const LARGEST: usize = 512 << 20;

/// The members.
pub(super) struct Members {
    members: Vec<Client>,
    /// Their addresses, for people.
    pub(super) urls: String,
    current: AtomicUsize,
}

impl Members {
    /// Connects when first asked.
    pub(super) async fn open(options: &EtcdOptions) -> Result<Self, Error> {
        let urls = options.endpoints.join(",");
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_timeout(ANSWER)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_require_leader(true);
        if let Some(tls) = &options.tls {
            let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
            if let Some((certificate, key)) = &tls.identity_pem {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            connect = connect.with_tls(config);
        }
        let mut members = Vec::new();
        for endpoint in &options.endpoints {
            let member = Client::connect([endpoint], Some(connect.clone())).await;
            members.push(member.map_err(|fault| medium("open", endpoint, &fault))?);
        }
        if members.is_empty() {
            return Err(medium("open", &urls, &"no member was named"));
        }
        Ok(Self {
            members,
            urls,
            current: AtomicUsize::new(0),
        })
    }

    fn turn(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// The member that is asked now, and which turn it is.
    pub(super) fn current(&self) -> (Client, usize) {
        let turn = self.turn();
        (self.members[turn % self.members.len()].clone(), turn)
    }

    /// The member of `turn` did not answer: the next is asked, unless somebody else went on already.
    pub(super) fn pass(&self, turn: usize) {
        let _ = self
            .current
            .compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Asks until a member answers; the answer may be a refusal. `tried` hears of each attempt that may or may not have
    /// been carried out.
    pub(super) async fn ask<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        operation: &'static str,
        ask: impl Fn(Client) -> F,
        mut tried: impl FnMut(),
    ) -> Result<Result<T, Fault>, Error> {
        let until = Instant::now() + PATIENCE;
        let mut rest = RESTS.0;
        loop {
            let (member, turn) = self.current();
            let fault = match tokio::time::timeout(ANSWER, ask(member)).await {
                Ok(Err(fault)) if passes(&fault) => fault.to_string(),
                Ok(answer) => return Ok(answer),
                Err(_) => "no answer in time".to_owned(),
            };
            tried();
            self.pass(turn);
            if Instant::now() + rest > until {
                return Err(medium(operation, &self.urls, &fault));
            }
            tracing::debug!(operation, fault, "an etcd member did not answer");
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(RESTS.1);
        }
    }

    /// [`Members::ask`] for what changes nothing.
    pub(super) async fn read<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        operation: &'static str,
        ask: impl Fn(Client) -> F,
    ) -> Result<Result<T, Fault>, Error> {
        self.ask(operation, ask, || {}).await
    }

    pub(super) fn error(&self, operation: &'static str, fault: &Fault) -> Error {
        if let Fault::GRpcStatus(status) = fault
            && status.message().contains("database space exceeded")
        {
            return Error::Full {
                path: self.urls.clone(),
            };
        }
        medium(operation, &self.urls, fault)
    }
}

/// Keys and values of a member, for answers of any size.
pub(super) fn kv(member: &Client) -> KvClient {
    member.kv_client().max_decoding_message_size(LARGEST)
}

/// Watches of a member, for answers of any size.
pub(super) fn watches(member: &Client) -> etcd_client::WatchClient {
    member.watch_client().max_decoding_message_size(LARGEST)
}

/// Whether another member, or a later moment, may bring an answer.
fn passes(fault: &Fault) -> bool {
    match fault {
        Fault::GRpcStatus(status) => match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => true,
            // Broken connections; etcd's own words start with its name.
            Code::Unknown | Code::Internal => !status.message().starts_with("etcdserver"),
            Code::ResourceExhausted => status.message().contains("too many requests"),
            _ => false,
        },
        Fault::TransportError(_) | Fault::IoError(_) => true,
        _ => false,
    }
}

/// Whether etcd says that a revision is compacted, and whether it is yet to come.
pub(super) fn out_of_range(fault: &Fault) -> Option<OutOfRange> {
    let Fault::GRpcStatus(status) = fault else {
        return None;
    };
    let message = status.message();
    if message.contains("required revision has been compacted") {
        return Some(OutOfRange::Compacted);
    }
    message
        .contains("required revision is a future revision")
        .then_some(OutOfRange::Future)
}

/// See [`out_of_range`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutOfRange {
    Compacted,
    Future,
}

/// What etcd says about a transaction that it doesn't take.
pub(super) fn too_large(fault: &Fault) -> Option<String> {
    let Fault::GRpcStatus(status) = fault else {
        return None;
    };
    let message = status.message();
    let large = message.contains("request is too large")
        || message.contains("too many operations")
        || message.contains("larger than max");
    large.then(|| message.to_owned())
}

fn medium(operation: &'static str, urls: &str, cause: &dyn std::fmt::Display) -> Error {
    Error::Medium {
        operation,
        path: format!("etcd at {urls}"),
        cause: cause.to_string(),
    }
}

pub(super) fn broken(operation: &'static str, urls: &str, cause: &str) -> Error {
    medium(operation, urls, &cause)
}
