//! The reader of PROXY headers.

use tidegate::model::{Ends, ProxyHeader, ProxyVersion, read_proxy_header, write_proxy_header};

/// A header of version 2 with 4 KiB behind its fixed part.
const BYTES_MAX: usize = 16 + 4096;

/// What a connection begins with.
pub fn proxy_header(data: &[u8]) {
    let mut come = 0;
    let whole = loop {
        match read_proxy_header(&data[..come]) {
            Ok(ProxyHeader::Needs(more)) => {
                assert!(more > 0, "waits for nothing");
                come += more;
                assert!(come <= BYTES_MAX, "reads on for ever");
                if come > data.len() {
                    return;
                }
            }
            whole => break whole,
        }
    };
    match whole {
        Ok(ProxyHeader::Read(ends)) => {
            assert_eq!(read_proxy_header(data), whole, "what follows a header changes it");
            for shorter in 0..come {
                let Ok(ProxyHeader::Needs(more)) = read_proxy_header(&data[..shorter]) else {
                    panic!("{shorter} of {come} bytes are one already, or none any more");
                };
                assert!(shorter + more <= come, "after {shorter} of {come} bytes, {more} are read");
            }
            if let Some(ends) = ends {
                check_written(ends);
            }
        }
        _ => assert!(read_proxy_header(data).is_err(), "what follows made a header of it"),
    }
}

fn check_written(ends: Ends) {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let header = write_proxy_header(version, ends);
        let Ok(ProxyHeader::Read(Some(read))) = read_proxy_header(&header) else {
            panic!("{} isn't read", header.escape_ascii());
        };
        for (read, written) in [(read.client, ends.client), (read.server, ends.server)] {
            assert_eq!((read.ip().to_canonical(), read.port()), (written.ip().to_canonical(), written.port()));
        }
    }
}
