//! Listens on UDP and TCP, answers the cluster's names from the newest zone and hands the others to the forwarder.
//! Which answer is right is the zone's decision.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use crate::forward::{Forwarder, Upstream};
use crate::{Answer, Zone};

/// Idle TCP connections are closed after this.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that one TCP connection may have waiting.
const TCP_PENDING: usize = 32;
/// Largest UDP answer: what passes every link unfragmented (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;
/// Aliases that are followed one after another.
const LONGEST_CHAIN: usize = 8;

/// Where to listen and whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsOptions {
    /// Addresses, each for UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// For names that are not the cluster's.
    pub upstream: Upstream,
}

/// Why DNS can't be served.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// An address can't be bound.
    #[error("cannot listen for DNS on {address}/{transport}: {cause}")]
    Bind {
        /// Address.
        address: SocketAddr,
        /// `udp` or `tcp`.
        transport: &'static str,
        /// The system's words.
        cause: std::io::Error,
    },
    /// The forwarder could not be made.
    #[error("cannot set up forwarding of names outside the cluster: {cause}")]
    Forward {
        /// hickory's words.
        cause: String,
    },
    /// A listener broke.
    #[error("DNS stopped: {cause}")]
    Serve {
        /// hickory's words.
        cause: String,
    },
}

/// A DNS server that is bound and not yet answering.
pub struct DnsServer {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    forwarder: Forwarder,
    addresses: Vec<SocketAddr>,
}

impl DnsServer {
    /// Binds every address. With port 0, TCP gets the port that UDP got.
    ///
    /// # Errors
    /// [`DnsError::Bind`] names the first address that is taken.
    pub async fn bind(options: &DnsOptions) -> Result<Self, DnsError> {
        let (mut udp, mut tcp, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for &wanted in &options.listen {
            let fault = |transport| {
                move |cause| DnsError::Bind {
                    address: wanted,
                    transport,
                    cause,
                }
            };
            let socket = UdpSocket::bind(wanted).await.map_err(fault("udp"))?;
            let address = socket.local_addr().map_err(fault("udp"))?;
            tcp.push(TcpListener::bind(address).await.map_err(fault("tcp"))?);
            udp.push(socket);
            addresses.push(address);
        }
        let forwarder =
            Forwarder::new(&options.upstream, &addresses).map_err(|error| DnsError::Forward {
                cause: error.to_string(),
            })?;
        Ok(Self {
            udp,
            tcp,
            forwarder,
            addresses,
        })
    }

    /// The addresses it is bound to.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Answers until the future is dropped. While the zone is `None` (nothing is known of the cluster yet) every
    /// question fails with SERVFAIL, so that nobody keeps a wrong "no such name".
    ///
    /// # Errors
    /// [`DnsError::Serve`] when a listener breaks.
    pub async fn run(self, zone: watch::Receiver<Option<Zone>>) -> Result<(), DnsError> {
        let handler = Handler {
            zone,
            forwarder: self.forwarder,
            turn: AtomicUsize::new(0),
        };
        let mut server = hickory_server::Server::new(handler);
        self.udp
            .into_iter()
            .for_each(|socket| server.register_socket(socket));
        self.tcp
            .into_iter()
            .for_each(|l| server.register_listener(l, TCP_IDLE, TCP_PENDING));
        server
            .block_until_done()
            .await
            .map_err(|error| DnsError::Serve {
                cause: error.to_string(),
            })
    }
}

struct Handler {
    zone: watch::Receiver<Option<Zone>>,
    forwarder: Forwarder,
    turn: AtomicUsize,
}

/// One answer, ready to be written.
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    soa: Option<Record>,
    additionals: Vec<Record>,
}

impl Reply {
    fn code(code: ResponseCode) -> Self {
        let (answers, additionals) = (Vec::new(), Vec::new());
        Self {
            code,
            authoritative: false,
            answers,
            soa: None,
            additionals,
        }
    }

    fn negative(code: ResponseCode, soa: Record) -> Self {
        Self {
            authoritative: true,
            soa: Some(soa),
            ..Self::code(code)
        }
    }

    /// The same with the aliases that led to it in front. Whose target nobody can be asked for gets the aliases alone.
    fn behind(mut self, mut chain: Vec<Record>) -> Self {
        if chain.is_empty() {
            return self;
        }
        if self.code == ResponseCode::Refused {
            self.code = ResponseCode::NoError;
        }
        chain.append(&mut self.answers);
        Self {
            authoritative: true,
            answers: chain,
            ..self
        }
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.message_type != MessageType::Query {
            return Reply::code(ResponseCode::FormErr);
        }
        if request.metadata.op_code != OpCode::Query {
            return Reply::code(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else {
            return Reply::code(ResponseCode::FormErr);
        };
        if info.query.query_class() != DNSClass::IN {
            return Reply::code(ResponseCode::Refused);
        }
        let question = info.query.original();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let recursion = request.metadata.recursion_desired;
        let (name, kind) = (question.name(), question.query_type());
        self.follow(name, kind, turn, recursion).await
    }

    /// The answer to a question, through the aliases that lead to it.
    async fn follow(&self, name: &Name, kind: RecordType, turn: usize, recursion: bool) -> Reply {
        let (mut name, mut chain) = (name.clone(), Vec::new());
        loop {
            let answer = |zone: &Zone| zone.answer(&name, kind, turn);
            let Some(answer) = self.zone.borrow().as_ref().map(answer) else {
                return Reply::code(ResponseCode::ServFail);
            };
            let reply = match answer {
                Answer::Alias { record, target } => {
                    chain.push(*record);
                    if chain.len() > LONGEST_CHAIN {
                        return Reply::code(ResponseCode::ServFail);
                    }
                    name = target;
                    continue;
                }
                Answer::Records {
                    answers,
                    additionals,
                } => Reply {
                    authoritative: true,
                    answers,
                    additionals,
                    ..Reply::code(ResponseCode::NoError)
                },
                Answer::NoData(soa) => Reply::negative(ResponseCode::NoError, *soa),
                Answer::NoSuchName(soa) => Reply::negative(ResponseCode::NXDomain, *soa),
                Answer::NotOurs if !recursion => Reply::code(ResponseCode::Refused),
                Answer::NotOurs => self.elsewhere(&name, kind).await,
            };
            return reply.behind(chain);
        }
    }

    async fn elsewhere(&self, name: &Name, kind: RecordType) -> Reply {
        let found = self.forwarder.ask(name, kind).await;
        Reply {
            answers: found.answers,
            soa: found.soa,
            ..Reply::code(found.code)
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_PAYLOAD))
                .set_version(0);
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let message = builder.build(metadata, &reply.answers, [], &reply.soa, &reply.additionals);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "DNS answer could not be sent");
                ResponseInfo::from(Header {
                    metadata,
                    counts: HeaderCounts::default(),
                })
            }
        }
    }
}
