//! Addresses that are not for everybody, after the IANA registries of special-purpose addresses
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>, `…/iana-ipv6-special-registry`, RFC 6890).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Network, length of its prefix, what its addresses are.
type Range4 = (Ipv4Addr, u32, &'static str);
type Range6 = (Ipv6Addr, u32, &'static str);

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// By its first groups.
const fn v6(a: u16, b: u16, c: u16) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)
}

const RANGES_V4: [Range4; 17] = [
    (v4(0, 0, 0, 0), 8, "unspecified"),
    (v4(10, 0, 0, 0), 8, "private"),
    (v4(100, 64, 0, 0), 10, "shared by a carrier's customers"),
    (v4(127, 0, 0, 0), 8, "this machine itself"),
    // A public address at which Azure's machines find their platform.
    (v4(168, 63, 129, 16), 32, "a cloud's own"),
    (v4(169, 254, 0, 0), 16, "link-local"),
    (v4(172, 16, 0, 0), 12, "private"),
    (v4(192, 0, 0, 0), 24, "reserved for protocols"),
    (v4(192, 0, 2, 0), 24, "for documentation"),
    (v4(192, 88, 99, 0), 24, "a relay to IPv6"),
    (v4(192, 168, 0, 0), 16, "private"),
    (v4(198, 18, 0, 0), 15, "for benchmarks"),
    (v4(198, 51, 100, 0), 24, "for documentation"),
    (v4(203, 0, 113, 0), 24, "for documentation"),
    (v4(224, 0, 0, 0), 4, "multicast"),
    (v4(255, 255, 255, 255), 32, "broadcast"),
    (v4(240, 0, 0, 0), 4, "reserved"),
];

const RANGES_V6: [Range6; 9] = [
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "this machine itself"),
    // Teredo, ORCHID and benchmarks among them.
    (v6(0x2001, 0, 0), 23, "reserved for protocols"),
    (v6(0x2001, 0xdb8, 0), 32, "for documentation"),
    (v6(0x3fff, 0, 0), 20, "for documentation"),
    (v6(0xfc00, 0, 0), 7, "private"),
    (v6(0xfe80, 0, 0), 10, "link-local"),
    (v6(0xfec0, 0, 0), 10, "site-local"),
    (v6(0xff00, 0, 0), 8, "multicast"),
];

/// What kind of internal address this is; none: it is public. IPv6 forms of an IPv4 address are as that is.
pub(super) fn internal(address: IpAddr) -> Option<&'static str> {
    match unwrapped(address) {
        IpAddr::V4(address) => RANGES_V4
            .iter()
            .find(|(network, length, _)| {
                same_prefix(
                    u128::from(address.to_bits()) << 96,
                    u128::from(network.to_bits()) << 96,
                    *length,
                )
            })
            .map(|(_, _, what)| *what),
        IpAddr::V6(address) => {
            let is_in = |network: Ipv6Addr, length| {
                same_prefix(address.to_bits(), network.to_bits(), length)
            };
            RANGES_V6
                .iter()
                .find(|(network, length, _)| is_in(*network, *length))
                .map(|(_, _, what)| *what)
                // Only these have been given out to the public.
                .or_else(|| (!is_in(v6(0x2000, 0, 0), 3)).then_some("reserved"))
        }
    }
}

/// The IPv4 address within an IPv6 one that stands for it: mapped (`::ffff:a.b.c.d`, RFC 4291), translated
/// (`::ffff:0:a.b.c.d`, RFC 2765), compatible (`::a.b.c.d`, RFC 4291), NAT64 (`64:ff9b::a.b.c.d`, RFC 6052), 6to4
/// (`2002:a.b:c.d::`, RFC 3056). Others as they are.
pub(super) fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let pair = match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => {
            (high, low)
        }
        // `::` and `::1` are addresses of IPv6 itself.
        [0, 0, 0, 0, 0, 0] if high != 0 => (high, low),
        [0x2002, ..] => (b, c),
        _ => return address,
    };
    let bits = u32::from(pair.0) << 16 | u32::from(pair.1);
    IpAddr::V4(Ipv4Addr::from_bits(bits))
}

fn same_prefix(one: u128, other: u128, length: u32) -> bool {
    let shift = 128 - length;
    one >> shift == other >> shift
}
