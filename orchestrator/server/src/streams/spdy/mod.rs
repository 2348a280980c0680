//! SPDY/3.1, as Kubernetes' clients speak it after an HTTP/1.1 upgrade: streams that the client opens, each with headers that
//! say what it carries. No flow control: those clients keep none.
//! <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>

mod command;
mod forward;
mod frame;
mod headers;
mod session;
#[cfg(test)]
mod tests;
mod upgrade;

pub(super) use command::{PROTOCOLS as COMMAND_PROTOCOLS, Wanted, serve as serve_command};
pub(super) use forward::{PROTOCOL as FORWARD_PROTOCOL, TUNNEL, serve as serve_forward};
pub(super) use upgrade::Upgrade;
