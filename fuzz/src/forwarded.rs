//! The reader of `Forwarded`, and of addresses as proxies write them.

use std::net::Ipv4Addr;

use tidegate::model::{ForwardedElement, parse_node, write_forwarded};

/// Lines of `Forwarded`, one after another.
pub fn forwarded(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for line in text.split('\n') {
        let mut rest = line;
        while let Some((before, _)) = ForwardedElement::last_of(rest) {
            assert!(line.starts_with(before) && before.len() < rest.len(), "{line:?} is read for ever");
            rest = before;
            if rest.is_empty() {
                break;
            }
        }
        check_added(line);
        if let Some(address) = parse_node(line.trim()) {
            assert_eq!(parse_node(&address.to_string()), Some(address));
            assert_eq!(address, address.to_canonical(), "one client, two addresses");
        }
    }
}

/// Whatever a client wrote, what was added behind it is what is read.
fn check_added(line: &str) {
    let address = Ipv4Addr::new(192, 0, 2, 1).into();
    let mut added = line.to_owned();
    write_forwarded(&mut added, address, Some(("shop.test:81", "https")));
    let (before, last) = ForwardedElement::last_of(&added).expect("a good element stands last");
    assert_eq!(before, line);
    assert_eq!(last.node.as_deref().and_then(parse_node), Some(address));
    assert_eq!((last.host.as_deref(), last.proto.as_deref()), (Some("shop.test:81"), Some("https")));
}
