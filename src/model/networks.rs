//! Client addresses: in which networks they lie, and whom a service lets in.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks, arranged so that looking an address up costs the same with ten of them and with ten thousand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkSet {
    ipv4: Ranges<u32>,
    ipv6: Ranges<u128>,
}

/// First and last address of each range; sorted, and none touches another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges<T>(Box<[(T, T)]>);

/// Whether an address lies in one of a handful of networks.
#[must_use]
pub fn lies_in(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

impl NetworkSet {
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for network in networks {
            // A client on a dual-stack socket counts as the IPv4 client that it is; so does its network.
            match (network.network().to_canonical(), network.broadcast().to_canonical()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => ipv4.push((first.to_bits(), last.to_bits())),
                _ => {
                    if let (IpAddr::V6(first), IpAddr::V6(last)) = (network.network(), network.broadcast()) {
                        ipv6.push((first.to_bits(), last.to_bits()));
                    }
                }
            }
        }
        Self { ipv4: Ranges::new(ipv4), ipv6: Ranges::new(ipv6) }
    }

    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.ipv4.contains(address.to_bits()),
            IpAddr::V6(address) => self.ipv6.contains(address.to_bits()),
        }
    }
}

impl<T: Ord + Copy> Ranges<T> {
    fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                // Networks lie one within the other, or apart.
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        Self(joined.into())
    }

    fn contains(&self, address: T) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= address);
        after > 0 && address <= self.0[after - 1].1
    }
}

/// Whom a service lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessList {
    /// `None`: everybody.
    pub allowed: Option<NetworkSet>,
    /// Outranks `allowed`.
    pub denied: NetworkSet,
}

impl AccessList {
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        !self.denied.contains(address) && self.allowed.as_ref().is_none_or(|allowed| allowed.contains(address))
    }
}

/// An address with all but its leading bits cleared.
#[must_use]
pub fn leading_bits(address: IpAddr, ipv4_bits: u8, ipv6_bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(ipv4_bits.min(32))).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_bits.min(128))).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(networks: &[&str]) -> NetworkSet {
        NetworkSet::new(networks.iter().map(|text| text.parse::<IpNet>().unwrap()))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn deny_outranks_allow_and_allow_shuts_out_the_rest() {
        let list = AccessList { allowed: Some(set(&["10.0.0.0/8", "2001:db8::/32"])), denied: set(&["10.9.0.0/16"]) };
        for (client, admitted) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("10.9.0.0", false),
            ("10.9.255.255", false),
            ("10.10.0.0", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("::ffff:10.0.0.1", true),
        ] {
            assert_eq!(list.admits(address(client)), admitted, "{client}");
        }
        let open = AccessList { allowed: None, denied: set(&["::ffff:192.0.2.0/120", "::/0"]) };
        assert!(open.admits(address("198.51.100.1")), "::/0 is about IPv6");
        assert!(!open.admits(address("192.0.2.1")) && !open.admits(address("2001:db8::1")));
    }

    #[test]
    fn leading_bits_are_kept_and_the_rest_is_cleared() {
        assert_eq!(leading_bits(address("192.0.2.77"), 24, 64), address("192.0.2.0"));
        assert_eq!(leading_bits(address("192.0.2.77"), 32, 64), address("192.0.2.77"));
        assert_eq!(leading_bits(address("2001:db8::1:2:3:4"), 24, 64), address("2001:db8::"));
        assert_eq!(leading_bits(address("::1"), 32, 128), address("::1"));
    }

    proptest! {
        #[test]
        fn a_set_finds_what_looking_through_all_networks_finds(
            networks in prop::collection::vec((any::<u32>(), 0..=32u8), 0..600),
            addresses in prop::collection::vec(any::<u32>(), 64),
        ) {
            let networks: Vec<IpNet> = networks
                .into_iter()
                .map(|(bits, prefix)| IpNet::new(IpAddr::V4(bits.into()), prefix.max(4)).unwrap().trunc())
                .collect();
            let set = NetworkSet::new(networks.iter().copied());
            let ends = networks.iter().take(64).flat_map(|network| [network.network(), network.broadcast()]);
            for address in addresses.into_iter().map(|bits| IpAddr::V4(bits.into())).chain(ends) {
                prop_assert_eq!(set.contains(address), networks.iter().any(|network| network.contains(&address)));
            }
        }
    }
}
