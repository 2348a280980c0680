//! Which backends the services have, whatever their standing: whom a socket may go on talking to. Nothing here decides
//! about new calls.

use std::collections::HashMap;
use std::net::IpAddr;

use waggle_abi::{Addr, PeerRow};
use waggle_model::ServiceId;
use waggle_model::network::{Backend, NetworkState, Service};

/// Protocol number, address and port (network byte order).
type Place = (u8, Addr, u16);

/// The backends of each service, by its number.
#[derive(Debug, Clone, Default)]
pub struct Serving {
    services: HashMap<u32, Box<[Place]>>,
}

impl Serving {
    /// Takes over what `state` says of the services `moved`; returns whether one of them or a backend is gone that was
    /// there before.
    pub fn note(
        &mut self,
        state: &NetworkState,
        moved: impl IntoIterator<Item = ServiceId, IntoIter: ExactSizeIterator>,
    ) -> bool {
        let moved = moved.into_iter();
        let mut gone = false;
        if self.services.is_empty() {
            self.services.reserve(moved.len());
        }
        for id in moved {
            let Some(service) = state.services.get(&id) else {
                gone |= self.services.remove(&id.0).is_some();
                continue;
            };
            let places = places(service);
            let old = self.services.get(&id.0);
            gone |= old.is_some_and(|old| !old.iter().all(|place| has(&places, place)));
            self.services.insert(id.0, places);
        }
        gone
    }

    /// Whether the service that the socket called still has the backend that it talks to.
    pub fn has(&self, peer: &PeerRow) -> bool {
        let place = (peer.protocol, peer.backend, peer.backend_port);
        self.services
            .get(&peer.service)
            .is_some_and(|places| has(places, &place))
    }
}

fn has(places: &[Place], place: &Place) -> bool {
    places.binary_search(place).is_ok()
}

fn places(service: &Service) -> Box<[Place]> {
    let count = service.ports.iter().map(|port| port.backends.len()).sum();
    let mut places: Vec<Place> = Vec::with_capacity(count);
    for port in &service.ports {
        let place = |backend: &Backend| {
            let address: IpAddr = backend.address;
            (port.protocol.number(), address.into(), backend.port.to_be())
        };
        places.extend(port.backends.iter().map(place));
    }
    places.sort_unstable();
    places.dedup();
    places.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_model::network::{Protocol, ServicePort, Standing};

    /// A service by its number, and its backends.
    type Listed<'a> = (u32, &'a [(&'a str, Standing)]);

    fn state(services: &[Listed]) -> NetworkState {
        let service = |(id, backends): &Listed| Service {
            id: ServiceId(*id),
            ports: vec![ServicePort {
                protocol: Protocol::Tcp,
                port: 80,
                backends: backends
                    .iter()
                    .map(|(address, standing)| Backend {
                        standing: *standing,
                        ..Backend::at(address.parse().unwrap(), 8080)
                    })
                    .collect(),
                ..ServicePort::default()
            }],
            ..Service::default()
        };
        NetworkState {
            services: services
                .iter()
                .map(|one| (ServiceId(one.0), service(one)))
                .collect(),
            ..NetworkState::default()
        }
    }

    fn peer(service: u32, backend: &str) -> PeerRow {
        PeerRow {
            service,
            backend: backend.parse::<IpAddr>().unwrap().into(),
            backend_port: 8080u16.to_be(),
            protocol: 6,
            ..PeerRow::default()
        }
    }

    const A: &str = "10.244.1.2";
    const B: &str = "10.244.1.3";

    #[test]
    fn only_what_is_gone_is_told() {
        use Standing::{Ready, Terminating, Unready};
        let mut serving = Serving::default();
        let steps: [(&[Listed], bool); 7] = [
            (&[(1, &[(A, Ready), (B, Ready)])], false),
            (&[(1, &[(A, Ready), (B, Ready)])], false),
            // About to end, or not ready: it goes on with what it has.
            (&[(1, &[(A, Terminating), (B, Unready)])], false),
            (&[(1, &[(A, Terminating)])], true),
            (&[(1, &[(A, Ready)]), (2, &[(B, Ready)])], false),
            (&[(2, &[(B, Ready)])], true),
            (&[], true),
        ];
        for (services, gone) in steps {
            let told = serving.note(&state(services), [1, 2].map(ServiceId));
            assert_eq!(told, gone, "{services:?}");
        }
    }

    #[test]
    fn a_socket_belongs_to_the_service_that_it_called() {
        let mut serving = Serving::default();
        let state = state(&[
            (1, &[(A, Standing::Ready)]),
            (2, &[(A, Standing::Terminating), (B, Standing::Ready)]),
        ]);
        serving.note(&state, [1, 2].map(ServiceId));
        assert!(serving.has(&peer(1, A)) && serving.has(&peer(2, A)));
        assert!(!serving.has(&peer(1, B)) && !serving.has(&peer(3, A)));
        let other_port = PeerRow {
            backend_port: 9u16.to_be(),
            ..peer(1, A)
        };
        assert!(!serving.has(&other_port));
        let datagrams = PeerRow {
            protocol: 17,
            ..peer(1, A)
        };
        assert!(!serving.has(&datagrams));
    }
}
