//! The least that a proxy has to do: for each connection one to the origin, and what comes from one side is read and
//! written to the other. A proxy that reads what it hands on can hardly be cheaper.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{CreateFlags, Event, EventData, EventFlags, add, create, wait};

const BUFFER_BYTES: usize = 64 << 10;
const LISTENER: u64 = u64::MAX;

pub(crate) fn run(listen: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    let epoll = create(CreateFlags::CLOEXEC)?;
    add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    // Ends of connections; those of one pair are neighbours.
    let mut ends: Vec<Option<TcpStream>> = Vec::new();
    let mut events: Vec<Event> = Vec::with_capacity(256);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        events.clear();
        wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let data = event.data.u64();
            if data == LISTENER {
                let (client, origin) = (listener.accept()?.0, TcpStream::connect(to)?);
                for end in [client, origin] {
                    end.set_nodelay(true)?;
                    end.set_write_timeout(Some(Duration::from_secs(10)))?;
                    add(&epoll, &end, EventData::new_u64(ends.len() as u64), EventFlags::IN)?;
                    ends.push(Some(end));
                }
                continue;
            }
            let from = data as usize;
            let to = from ^ 1;
            if !hand_on(&ends, from, to, &mut buffer) {
                ends[from] = None;
                ends[to] = None;
            }
        }
    }
}

/// One read, of what is known to be there, and one write, which waits for room. Whether there may be more.
fn hand_on(ends: &[Option<TcpStream>], from: usize, to: usize, buffer: &mut [u8]) -> bool {
    let (Some(mut from), Some(mut to)) = (ends[from].as_ref(), ends[to].as_ref()) else { return true };
    match from.read(buffer) {
        Ok(0) | Err(_) => false,
        Ok(read) => to.write_all(&buffer[..read]).is_ok(),
    }
}
