//! A connection to a server that ends soon after the other machine is gone, or the way to it. The kernels see to that: what
//! was sent must be acknowledged in time, and an idle connection is asked for. So a server that lives needs to do nothing
//! to be believed, however many agents it has.

use std::io;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{
    KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout,
};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may be idle until the other kernel is asked, and how long that may go unanswered.
const IDLE: Duration = Duration::from_secs(5);
const UNANSWERED: Duration = Duration::from_secs(5);
/// Port of an address that names none.
const HTTPS: u16 = 443;

/// Connects to the server of `endpoint`.
pub(crate) async fn dial(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(|server: Uri| async move {
        let host = server.host().ok_or(io::ErrorKind::InvalidInput)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = server.port_u16().unwrap_or(HTTPS);
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        watch_over(&stream)?;
        Ok::<_, io::Error>(TokioIo::new(stream))
    });
    endpoint.connect_with_connector(connector).await
}

fn watch_over(stream: &TcpStream) -> io::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let millis = u32::try_from((IDLE + UNANSWERED).as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, KeepAlive, &true)?;
    setsockopt(stream, TcpKeepIdle, &seconds(IDLE))?;
    // Asked once a second for as long as that.
    setsockopt(stream, TcpKeepInterval, &1)?;
    setsockopt(stream, TcpKeepCount, &seconds(UNANSWERED))?;
    setsockopt(stream, TcpUserTimeout, &millis)?;
    Ok(())
}
