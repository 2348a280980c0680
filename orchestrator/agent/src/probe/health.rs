//! The gRPC health checking protocol, version 1: one call of `grpc.health.v1.Health/Check`, without TLS.

use std::net::SocketAddr;

use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

/// `ServingStatus.SERVING`.
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

/// `Err` says why the service is not well.
pub(super) async fn check(target: SocketAddr, service: String) -> Result<(), String> {
    let channel = Endpoint::from_shared(format!("http://{target}"))
        .map_err(|error| error.to_string())?
        .connect()
        .await
        .map_err(|error| format!("dial {target}: {}", with_causes(&error)))?;
    let mut client = tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| format!("dial {target}: {}", with_causes(&error)))?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let request = tonic::Request::new(HealthCheckRequest { service });
    let answer = client.unary(request, path, codec).await;
    match answer.map(|answer| answer.into_inner().status) {
        Ok(SERVING) => Ok(()),
        Ok(status) => Err(format!(
            "service unhealthy (responded with status {status})"
        )),
        Err(status) => Err(format!("{}: {}", status.code(), status.message())),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
