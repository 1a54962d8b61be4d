//! All listening sockets are opened here.
//!
//! Each worker listens on a socket of its own with SO_REUSEPORT, so that the kernel spreads connections and no
//! lock is shared. But SO_REUSEPORT also lets a second process of the same user join in and take half of the
//! connections without anybody noticing; a probing bind without it finds that out first.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::stream::keep_alive;

/// Connections that wait to be accepted, per worker; the system caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listening address, with one socket for each worker.
#[derive(Debug)]
pub struct Bound {
    /// With the port the system chose, where 0 was asked for.
    pub address: SocketAddr,
    pub sockets: Vec<TcpListener>,
}

/// Why an address can't be listened on.
#[derive(Debug)]
pub struct BindError {
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't listen on {}: {}", self.address, self.error)?;
        match self.error.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "\n  hint: another process listens there, perhaps another tidegate; `ss -ltnp 'sport = :{}'` shows it",
                self.address.port()
            ),
            io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "\n  hint: ports below 1024 need CAP_NET_BIND_SERVICE (setcap, or AmbientCapabilities in systemd)"
                )
            }
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "\n  hint: this machine doesn't have that address; 0.0.0.0 or [::] listens on all it has")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {}

/// Listens on `address` once for each worker.
///
/// # Errors
/// When the address is in use, by whomever, or can't be had.
pub fn bind(address: SocketAddr, workers: usize) -> Result<Bound, BindError> {
    let bind_all = || {
        if address.port() != 0 {
            open(address)?.bind(&address.into())?;
        }
        let first = listen(address)?;
        let address = first.local_addr()?;
        let rest = (1..workers).map(|_| listen(address));
        let sockets = std::iter::once(Ok(first)).chain(rest).collect::<io::Result<Vec<_>>>()?;
        Ok(Bound { address, sockets })
    };
    bind_all().map_err(|error| BindError { address, error })
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT don't keep the address.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit both. Without the latter a small answer may wait for the client's delayed acknowledgement.
    socket.set_tcp_keepalive(&keep_alive())?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_gets_a_socket_on_the_same_port() {
        let bound = bind(([127, 0, 0, 1], 0).into(), 3).unwrap();
        assert_eq!(bound.sockets.len(), 3);
        assert!(bound.sockets.iter().all(|s| s.local_addr().unwrap() == bound.address));
    }

    #[test]
    fn accepted_sockets_send_at_once() {
        let bound = bind(([127, 0, 0, 1], 0).into(), 1).unwrap();
        let _client = std::net::TcpStream::connect(bound.address).unwrap();
        bound.sockets[0].set_nonblocking(false).unwrap();
        assert!(bound.sockets[0].accept().unwrap().0.nodelay().unwrap());
    }

    #[test]
    fn an_address_that_others_share_by_reuseport_is_refused_all_the_same() {
        let bound = bind(([127, 0, 0, 1], 0).into(), 1).unwrap();
        let error = bind(bound.address, 1).unwrap_err().to_string();
        assert!(error.contains("hint: another process listens there"), "{error}");
    }
}
