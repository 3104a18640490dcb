use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn policy(exceptions: &[&str]) -> Policy {
    let parsed: Vec<Exception> = exceptions
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    Policy::new(&parsed)
}

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

const INTERNAL: [&str; 24] = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.1.1",
    "198.19.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "0.1.2.3",
    "192.88.99.1",
    "198.18.0.1",
    "100.127.255.255",
];

const PUBLIC: [&str; 10] = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "223.255.255.255",
];

/// Every IPv6 form of an IPv4 address.
fn forms(address: Ipv4Addr) -> [Ipv6Addr; 5] {
    let [a, b, c, d] = address.octets();
    let pair = |high, low| u16::from_be_bytes([high, low]);
    let (high, low) = (pair(a, b), pair(c, d));
    [
        address.to_ipv6_mapped(),
        Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
    ]
}

#[test]
fn internal_ranges_are_refused_and_their_neighbours_are_not() {
    let policy = policy(&[]);
    for text in INTERNAL {
        let checked = policy.check_text(&url(&format!("http://{text}/v1")));
        assert!(
            matches!(checked, Err(Refused::Internal { .. })),
            "{text}: {checked:?}"
        );
        let address: Ipv4Addr = text.parse().unwrap();
        for form in forms(address) {
            let checked = policy.check_text(&url(&format!("https://[{form}]/v1")));
            assert!(
                matches!(checked, Err(Refused::Internal { .. })),
                "{form}: {checked:?}"
            );
        }
    }
    for text in PUBLIC {
        policy
            .check_text(&url(&format!("http://{text}/v1")))
            .unwrap();
        let address: Ipv4Addr = text.parse().unwrap();
        for form in forms(address) {
            policy
                .check_text(&url(&format!("https://[{form}]/v1")))
                .unwrap();
        }
    }
    for text in [
        "::",
        "::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "3fff::1",
        "2001::1",
        "2001:2::1",
        "64:ff9b:1::1",
        "100::1",
        "5f00::1",
        "4000::1",
    ] {
        let checked = policy.check_text(&url(&format!("http://[{text}]/v1")));
        assert!(
            matches!(checked, Err(Refused::Internal { .. })),
            "{text}: {checked:?}"
        );
    }
    for text in ["2606:4700:4700::1111", "2a00:1450:4001::1", "2400:cb00::1"] {
        policy
            .check_text(&url(&format!("http://[{text}]/v1")))
            .unwrap();
    }
}

#[test]
fn other_spellings_of_an_address_are_that_address() {
    let policy = policy(&[]);
    for host in [
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "①27.0.0.1",
        "0",
    ] {
        let checked = policy.check_text(&url(&format!("http://{host}/v1")));
        assert!(
            matches!(checked, Err(Refused::Internal { .. })),
            "{host}: {checked:?}"
        );
    }
}

#[test]
fn what_is_not_plain_http_is_refused() {
    let policy = policy(&["0.0.0.0/0"]);
    for text in ["ftp://1.1.1.1/", "file:///etc/passwd", "gopher://1.1.1.1/"] {
        assert!(
            matches!(policy.check_text(&url(text)), Err(Refused::Scheme)),
            "{text}"
        );
    }
    for text in ["http://hunter2@1.1.1.1/", "http://:hunter2@1.1.1.1/"] {
        let refused = policy.check_text(&url(text)).unwrap_err();
        assert!(matches!(refused, Refused::Credentials), "{text}");
        assert!(!format!("{refused} {refused:?}").contains("hunter2"));
    }
}

#[test]
fn exceptions_allow_what_they_name_and_nothing_else() {
    let policy = policy(&["10.1.0.0/16", "fd00::/8", "192.168.1.7", "models.internal"]);
    let allowed = |text: &str| policy.check_text(&url(text)).is_ok();
    assert!(allowed("http://10.1.255.1/v1"));
    assert!(allowed("http://[::ffff:10.1.2.3]/v1"));
    assert!(!allowed("http://10.2.0.1/v1"));
    assert!(allowed("http://[fd00::1]/v1"));
    assert!(!allowed("http://[fc00::1]/v1"));
    assert!(allowed("http://192.168.1.7/v1"));
    assert!(!allowed("http://192.168.1.8/v1"));
    let private = IpAddr::from([10, 9, 9, 9]);
    for host in ["models.internal", "Models.Internal", "models.internal."] {
        policy.check_address(host, private).unwrap();
    }
    for host in ["internal", "x.models.internal", "models.internal.evil.com"] {
        let refused = policy.check_address(host, private).unwrap_err().to_string();
        assert!(refused.contains("server.allow_upstreams"), "{refused}");
        assert!(
            refused.contains(host) && refused.contains("10.9.9.9"),
            "{refused}"
        );
    }
}

#[test]
fn exceptions_are_read_and_written_alike() {
    for (text, written) in [
        ("10.1.2.3/16", "10.1.0.0/16"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("[fd00::1]", "fd00::1/128"),
        ("LocalHost.", "localhost"),
        ("models.internal", "models.internal"),
    ] {
        let exception: Exception = text.parse().unwrap();
        assert_eq!(exception.to_string(), written);
        assert_eq!(exception, written.parse().unwrap());
    }
    for bad in [
        "",
        "a b",
        "http://x",
        "x:80",
        "*.internal",
        "10.0.0.0/33",
        "127.1",
    ] {
        assert_eq!(bad.parse::<Exception>(), Err(BadException), "{bad}");
    }
}

proptest! {
    #[test]
    fn ipv6_forms_are_judged_as_the_address_within(bits in any::<u32>()) {
        let address = Ipv4Addr::from_bits(bits);
        let plain = ranges::internal(address.into());
        for form in forms(address) {
            // `::` and `::1`, and all below 2^16, are addresses of IPv6 itself: none of them is public.
            let same = ranges::internal(form.into());
            prop_assert_eq!(plain.is_some(), same.is_some(), "{}", form);
        }
    }

    #[test]
    fn ranges_agree_with_the_standard_library(bits in any::<u32>()) {
        let address = Ipv4Addr::from_bits(bits);
        let is_known = address.is_private()
            || address.is_loopback()
            || address.is_link_local()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_documentation()
            || address.is_unspecified();
        prop_assert!(!is_known || ranges::internal(address.into()).is_some());
    }
}

#[tokio::test]
async fn a_name_is_refused_for_what_it_resolves_to() {
    let local = url("http://localhost:9/v1");
    policy(&[]).check_text(&local).unwrap();
    let refused = policy(&[]).check(&local).await.unwrap_err();
    assert!(
        matches!(&refused, Refused::Internal { host, address, .. } if host == "localhost" && address.is_loopback()),
        "{refused:?}"
    );
    policy(&["localhost"]).check(&local).await.unwrap();
    policy(&["127.0.0.0/8", "::1"]).check(&local).await.unwrap();
    // Reserved by RFC 6761, so that it never resolves.
    let nowhere = policy(&[]).check(&url("http://nowhere.invalid/v1")).await;
    assert!(
        matches!(nowhere, Err(Refused::Unresolved { .. })),
        "{nowhere:?}"
    );
}

/// A server on this machine that answers each connection with 204, and tells of it.
async fn server() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn answer(listener: &TcpListener) {
    let (mut connection, _) = listener.accept().await.unwrap();
    let mut head = [0; 1024];
    assert!(connection.read(&mut head).await.unwrap() > 0);
    connection
        .write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
}

/// So that a connection which ought not to be made fails the test instead of hanging it.
const LONG: Duration = Duration::from_secs(20);

fn client(policy: &Policy) -> reqwest::Client {
    let client = reqwest::Client::builder().timeout(LONG);
    policy.guard(client).build().unwrap()
}

/// As when a name that was public when it was checked leads inside when it is called.
#[tokio::test]
async fn a_connection_to_an_internal_address_is_refused_when_it_is_made() {
    let (listener, port) = server().await;
    let url = format!("http://localhost:{port}/v1");
    let error = client(&policy(&[])).get(&url).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    let mut told = String::new();
    while let Some(error) = cause {
        told.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(told.contains("server.allow_upstreams"), "{told}");
    let nobody = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(nobody.is_err(), "the server saw a connection");

    let allowed = client(&policy(&["localhost"]));
    let (answered, ()) = tokio::join!(allowed.get(&url).send(), answer(&listener));
    assert_eq!(answered.unwrap().status(), 204);
}

#[tokio::test]
async fn a_guarded_client_takes_no_proxy() {
    let (listener, port) = server().await;
    let proxy = reqwest::Proxy::all(format!("http://127.0.0.1:{port}")).unwrap();
    let client = reqwest::Client::builder().timeout(LONG).proxy(proxy);
    let client = policy(&[]).guard(client).build().unwrap();
    let error = client.get("http://nowhere.invalid/v1").send().await;
    assert!(error.unwrap_err().is_connect());
    let nobody = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(nobody.is_err(), "the proxy saw a connection");
}

#[tokio::test]
async fn a_guarded_client_follows_no_redirect() {
    let (listener, port) = server().await;
    let allowed = client(&policy(&["localhost"]));
    let redirect = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        assert!(connection.read(&mut head).await.unwrap() > 0);
        connection
            .write_all(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
    };
    let sent = allowed.get(format!("http://localhost:{port}/v1")).send();
    let (answered, ()) = tokio::join!(sent, redirect);
    assert_eq!(answered.unwrap().status(), 302);
}
