//! Listening addresses, `ADDR:PORT` or `ADDR:PORT@/run/netns/NAME`: the latter is bound inside that network namespace,
//! by a thread that enters it for just that.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::str::FromStr;

use nix::sched::{CloneFlags, setns};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// Network namespace to bind in; the caller's own when absent.
    pub namespace: Option<PathBuf>,
}

/// Why an address can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not written as it should be.
    #[error("invalid listen address {text:?}: write ADDRESS:PORT or ADDRESS:PORT@/run/netns/NAME")]
    Malformed {
        /// As given.
        text: String,
    },
    /// Somebody else listens there.
    #[error(
        "{address} is already in use by another process: end that one (`ss -ltnp sport = :{}` shows it) or choose \
         another address with {option}",
        address.address.port()
    )]
    InUse {
        /// The address.
        address: ListenAddress,
        /// The option that chooses it.
        option: &'static str,
    },
    /// Anything else.
    #[error("can't listen on {address} ({option}): {cause}")]
    Refused {
        /// The address.
        address: ListenAddress,
        /// The option that chooses it.
        option: &'static str,
        /// Why.
        cause: std::io::Error,
    },
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            None => write!(f, "{}", self.address),
            Some(namespace) => write!(f, "{}@{}", self.address, namespace.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let malformed = || ListenError::Malformed {
            text: text.to_owned(),
        };
        let (address, namespace) = match text.split_once('@') {
            Some((_, "")) => return Err(malformed()),
            Some((address, namespace)) => (address, Some(PathBuf::from(namespace))),
            None => (text, None),
        };
        Ok(Self {
            address: address.parse().map_err(|_| malformed())?,
            namespace,
        })
    }
}

impl ListenAddress {
    /// Binds it. `option` names the command line option it came from, for the error.
    ///
    /// # Errors
    /// [`ListenError::InUse`] or [`ListenError::Refused`], naming the address.
    pub fn bind(&self, option: &'static str) -> Result<TcpListener, ListenError> {
        let bound = match &self.namespace {
            None => TcpListener::bind(self.address),
            Some(namespace) => bind_inside(self.address, namespace),
        };
        bound.map_err(|cause| match cause.kind() {
            std::io::ErrorKind::AddrInUse => ListenError::InUse {
                address: self.clone(),
                option,
            },
            _ => ListenError::Refused {
                address: self.clone(),
                option,
                cause,
            },
        })
    }
}

/// Binds in another network namespace; the thread that entered it ends with that.
fn bind_inside(address: SocketAddr, namespace: &std::path::Path) -> std::io::Result<TcpListener> {
    let folder = std::fs::File::open(namespace)?;
    let thread = std::thread::Builder::new()
        .name("bind".into())
        .spawn(move || {
            setns(&folder, CloneFlags::CLONE_NEWNET)?;
            TcpListener::bind(address)
        })?;
    thread
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("the binding thread panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_namespace() {
        let plain: ListenAddress = "127.0.0.1:6443".parse().unwrap();
        assert_eq!(
            (plain.to_string().as_str(), plain.namespace),
            ("127.0.0.1:6443", None)
        );
        let inside: ListenAddress = "[::1]:6444@/run/netns/fabric".parse().unwrap();
        assert_eq!(inside.to_string(), "[::1]:6444@/run/netns/fabric");
        for text in [
            "",
            "127.0.0.1",
            "localhost:1",
            "127.0.0.1:1@",
            "127.0.0.1:70000",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_in_use_is_named_with_the_mend() {
        let free: ListenAddress = "127.0.0.1:0".parse().unwrap();
        let listener = free.bind("--listen").unwrap();
        let taken = ListenAddress {
            address: listener.local_addr().unwrap(),
            namespace: None,
        };
        let error = taken.bind("--listen").unwrap_err().to_string();
        assert!(
            error.contains(&taken.to_string()) && error.contains("--listen"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_namespace_is_named() {
        let address: ListenAddress = "127.0.0.1:0@/run/netns/wgt-none".parse().unwrap();
        let error = address.bind("--node-listen").unwrap_err().to_string();
        assert!(error.contains("/run/netns/wgt-none"), "{error}");
    }

    /// Needs the right to make a network namespace: root, as everything that Waggle does on a node.
    #[test]
    fn the_same_port_is_free_in_another_namespace() {
        let here: ListenAddress = "127.0.0.1:0".parse().unwrap();
        let holder = here.bind("--listen").unwrap();
        let taken = holder.local_addr().unwrap();
        let (made, path) = std::sync::mpsc::channel();
        let (done, end) = std::sync::mpsc::channel::<()>();
        let keeper = std::thread::spawn(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)
                .expect("this test makes a network namespace: run it as root");
            made.send(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid()))
                .unwrap();
            let _ = end.recv();
        });
        let namespace = path.recv().unwrap();
        let inside = ListenAddress {
            address: taken,
            namespace: Some(namespace.into()),
        };
        let listener = inside.bind("--listen").unwrap();
        assert_eq!(listener.local_addr().unwrap(), taken);
        assert!(matches!(
            inside.bind("--listen"),
            Err(ListenError::InUse { .. })
        ));
        drop(done);
        keeper.join().unwrap();
    }
}
