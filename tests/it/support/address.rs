//! Addresses for those who must know their port beforehand.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that the system gives to whoever asks for any, among them clients.
const PORTS: std::ops::Range<u16> = 10_240..32_768;

/// A loopback address that nobody listens on, and that nobody gets who doesn't ask for it by number.
pub fn free_address() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Tests of several processes begin at different places.
    let start = std::process::id().wrapping_mul(97) as u16;
    loop {
        let step = TAKEN.fetch_add(1, Ordering::Relaxed).wrapping_add(start);
        let address = (Ipv4Addr::LOCALHOST, PORTS.start + step % (PORTS.end - PORTS.start)).into();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
