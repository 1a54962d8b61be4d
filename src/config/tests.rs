//! Whole files against what is said about them. `BLESS=1 cargo test config` writes what is said now into the
//! `.expected` files, to be read before it is committed.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::model::{HostMatch, PathMatch, Sticky, ValueMatch};
use crate::tls::testing::Workshop;

/// 2026-01-01.
const NOW: Duration = Duration::from_secs(1_767_225_600);

/// A folder with the certificates that the fixtures name.
fn workshop() -> Workshop {
    let shop = Workshop::new();
    shop.pair("a", &["a.example", "*.a.example"]);
    shop.pair("b", &["b.example"]);
    shop.pair_until(2025, "expired", &["a.example"]);
    for (name, like) in [("cert.pem", "a.pem"), ("key.pem", "a.key.pem"), ("ca.pem", "a.pem")] {
        shop.file(name, &fs::read_to_string(shop.path(like)).unwrap());
    }
    shop.file("hook.secret", "hunter2\n");
    shop.file("empty.pem", "");
    shop.file("hook.secret", "sesame\n");
    shop.file("error.html", "<title>{status}</title>");
    shop.file("error.json", r#"{"status": {status}, "title": "{title}", "id": "{request_id}"}"#);
    shop
}

fn env(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8080".to_owned()),
        "WORKERS" => Some("4".to_owned()),
        "WORD" => Some("four".to_owned()),
        "TOKEN" | "HOOK_SECRET" => Some("hunter2".to_owned()),
        _ => None,
    }
}

fn parse_in(shop: &Workshop, source: &str, previous: Option<&Config>) -> Result<Loaded, Problems> {
    parse_at(SystemTime::UNIX_EPOCH + NOW, source, &shop.path("proxy.toml"), &env, previous)
}

fn parsed(source: &str) -> Config {
    parse_in(&workshop(), source, None).unwrap_or_else(|problems| panic!("{problems}")).config
}

fn problems(source: &str) -> String {
    parse_in(&workshop(), source, None).unwrap_err().to_string()
}

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
    let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ext| ext == "toml")).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// What is said about a fixture: problems, or warnings, or nothing.
fn verdict(shop: &Workshop, fixture: &Path) -> (bool, String) {
    let name = Path::new(fixture.file_name().unwrap());
    let source = fs::read_to_string(fixture).unwrap();
    let at = shop.path(name.to_str().unwrap());
    let (valid, said) = match parse_at(SystemTime::UNIX_EPOCH + NOW, &source, &at, &env, None) {
        Ok(loaded) => (true, loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect()),
        Err(problems) => (false, format!("{problems}\n")),
    };
    (valid, said.replace(shop.path("").to_str().unwrap(), ""))
}

fn check_fixtures(kind: &str, wanted: bool) {
    let shop = workshop();
    for fixture in fixtures(kind) {
        let (valid, said) = verdict(&shop, &fixture);
        assert_eq!(valid, wanted, "{}:\n{said}", fixture.display());
        let expected = fixture.with_extension("expected");
        if std::env::var_os("BLESS").is_some() && !said.is_empty() {
            fs::write(&expected, &said).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert!(said == expected, "{}: expected\n{expected}\nbut it says\n{said}", fixture.display());
    }
}

#[test]
fn every_valid_fixture_is_accepted_with_the_expected_warnings() {
    check_fixtures("valid", true);
}

#[test]
fn every_invalid_fixture_is_refused_with_the_expected_problems() {
    check_fixtures("invalid", false);
}

fn shipped() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml")).unwrap()
}

/// The shipped file with everything that is commented out by `#: ` in force.
fn shipped_in_full() -> String {
    shipped().lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect()
}

#[test]
fn the_shipped_file_works_as_it_stands() {
    let path = Workshop::new().file("proxy.toml", &shipped());
    let loaded = parse(&shipped(), &path, &|_| None, None).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(loaded.config.admin.unwrap().address.to_string(), "127.0.0.1:9900");
    let shop = &loaded.config.services[0];
    assert!(shop.routes.is_empty());
    assert_eq!(shop.backends.iter().map(|b| b.weight.value()).collect::<Vec<_>>(), [95.0, 5.0]);
}

#[test]
fn the_shipped_file_works_with_everything_uncommented() {
    let loaded = parse_in(&workshop(), &shipped_in_full(), None).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);
}

#[test]
fn the_shipped_file_shows_every_key() {
    fn keys(node: &serde_json::Value, found: &mut Vec<String>) {
        if let Some(properties) = node.get("properties").and_then(serde_json::Value::as_object) {
            found.extend(properties.keys().cloned());
        }
        match node {
            serde_json::Value::Object(object) => object.values().for_each(|value| keys(value, found)),
            serde_json::Value::Array(array) => array.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }
    let (mut found, text) = (Vec::new(), shipped_in_full());
    keys(&schema(), &mut found);
    for key in found {
        let shown = regex::Regex::new(&format!(r"(?m)^(?:[^#\n]*[\[{{,.\s])?{key}(?:\s*=|\]|\.)")).unwrap();
        assert!(shown.is_match(&text), "{key} is not shown in proxy.toml");
    }
}

#[test]
fn the_shipped_defaults_are_the_defaults() {
    let minimal = parsed(
        "[[listeners]]\naddress = '127.0.0.1:1'\n[services.a.backends.b]\nweight = 1\nendpoints = ['http://a']\n",
    );
    let full = shipped();
    let full = parse(&full, Path::new("proxy.toml"), &|_| None, None).unwrap().config;
    assert_eq!(minimal.timeouts, full.timeouts);
    assert_eq!(minimal.shutdown, full.shutdown);
    assert_eq!(minimal.forwarding, full.forwarding);
    assert_eq!(minimal.log, full.log);
    assert_eq!(minimal.access_log, full.access_log);
    assert_eq!(minimal.resolve_interval, full.resolve_interval);
    assert_eq!(minimal.workers, full.workers);
    assert_eq!(minimal.errors, full.errors);
    assert_eq!(minimal.state_dir.file_name(), full.state_dir.file_name());
    assert_eq!(minimal.services[0].timeouts, full.services[0].timeouts);
    assert_eq!(minimal.services[0].attempts, full.services[0].attempts);
    assert_eq!(minimal.services[0].ejection, full.services[0].ejection);
    assert_eq!(minimal.services[0].slow_start, full.services[0].slow_start);
    assert_eq!(minimal.services[0].rollout.plan, full.services[0].rollout.plan);
    assert_eq!(minimal.services[0].backends[0].pool, full.services[0].backends[0].pool);
}

const SHOP: &str = "[[listeners]]\naddress = '127.0.0.1:0'\n[services.shop.backends.blue]\nweight = 1\n";

#[test]
fn values_come_from_the_environment_and_become_what_is_wanted() {
    let config = parsed(&format!(
        "workers = '${{WORKERS}}'\nresolve_interval = '${{EVERY:-20s}}'\n{SHOP}endpoints = ['http://a:${{PORT}}']\n"
    ));
    assert_eq!(config.workers.unwrap().get(), 4);
    assert_eq!(config.resolve_interval, Duration::from_secs(20));
    assert_eq!(config.services[0].backends[0].endpoints[0].port, 8080);
}

#[test]
fn routes_and_rules_mean_what_they_say() {
    let config = parsed(&format!(
        "{SHOP}endpoints = ['http://a']
        [services.shop]
        sticky = {{ cookie = 'id' }}
        routes = [{{ host = '*.Example.com.', path = '/api/', methods = ['POST', 'GET', 'GET'] }}, {{ path_regex = '/v[0-9]+|/x' }}]
        rules = [{{ backend = 'blue', headers = {{ X-Debug = {{ present = true }} }}, networks = ['10.0.0.0/8', '::1'] }}]"
    ));
    let shop = &config.services[0];
    assert_eq!(shop.sticky, Some(Sticky::Cookie { name: "id".into(), max_age: Duration::from_hours(720) }));
    assert_eq!(shop.routes[0].host, HostMatch::Wildcard("example.com".to_owned()));
    assert!(matches!(&shop.routes[0].path, PathMatch::Prefix(path) if path == "/api"));
    assert_eq!(shop.routes[0].methods, ["GET", "POST"]);
    assert!(matches!(&shop.routes[1].path, PathMatch::Regex(regex) if regex.is_match("/x") && !regex.is_match("/xy")));
    assert!(matches!(&shop.rules[0].matches.headers[..], [(name, ValueMatch::Present)] if name == "x-debug"));
    assert_eq!(shop.rules[0].matches.networks[1].to_string(), "::1/128");
}

#[test]
fn header_changes_and_trusted_proxies_mean_what_they_say() {
    let config = parsed(&format!(
        "trusted_proxies = ['10.0.0.0/8', '::1']\nforwarding = {{ believe = 'both', via = 'off', trace_sample = 0.5 }}
        {SHOP}endpoints = ['http://a']
        [services.shop]
        request_headers = {{ set = {{ Host = 'a.internal:81', X-One = '' }}, remove = ['X-Two', 'cookie'] }}
        response_headers = {{ add = {{ Via = '1.1 x' }}, remove = ['x-request-id'] }}"
    ));
    let forwarding = &config.forwarding;
    assert_eq!(forwarding.trust.proxies.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1/128"]);
    assert_eq!((forwarding.trust.dialect, forwarding.trust.client_cert), (Dialect::Both, false));
    assert_eq!((forwarding.via.as_ref(), forwarding.trace_sample), (None, Some(0.5)));
    let changes = config.services[0].request_headers.as_ref().unwrap();
    assert_eq!(changes.set.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["host", "x-one"]);
    assert_eq!(changes.remove, ["x-two", "cookie"]);
    assert_eq!(config.services[0].response_headers.as_ref().unwrap().add.len(), 1);
}

#[test]
fn a_header_value_never_appears_in_a_problem() {
    let said = problems(&format!(
        "{SHOP}endpoints = ['http://a']\n[services.shop.request_headers]\nset = {{ authorization = \"hunter2\\n\" }}\n"
    ));
    assert!(said.contains("authorization") && !said.contains("hunter2"), "{said}");
}

#[test]
fn what_a_smoke_check_sends_is_bounded() {
    let source = |bytes: usize| {
        format!(
            "{SHOP}endpoints = ['http://a']
            [services.shop.backends.green]\nweight = 0\nendpoints = ['http://b']
            [services.shop.rollout.smoke]
            checks = [{{ path = '/', method = 'POST', headers = {{ content-type = 'text/plain' }}, body = '{}' }}]",
            "x".repeat(bytes)
        )
    };
    assert_eq!(parsed(&source(65_536)).services[0].rollout.gates.smoke.as_ref().unwrap().checks[0].body.len(), 65_536);
    assert!(problems(&source(65_537)).contains("the body has 65537 bytes, and may have 65536"));
}

#[test]
fn the_largest_weight_is_stable_unless_the_file_says_otherwise() {
    let backends = "[services.shop.backends.a]\nweight = 2\nendpoints = ['http://a']\n\
                    [services.shop.backends.z]\nweight = 1\nendpoints = ['http://z']\n";
    let file = |stable: &str| format!("[[listeners]]\naddress = '127.0.0.1:0'\n[services.shop]\n{stable}\n{backends}");
    assert_eq!(parsed(&file("")).services[0].stable, 0);
    assert_eq!(parsed(&file("stable = 'z'")).services[0].stable, 1);
}

#[test]
fn the_token_never_appears_in_a_problem() {
    for token in ["token = 'hunter2\u{e4}'", "token = ['hunter2']", "token = '${TOKEN} ${NONE}'", "tokn = 'hunter2'"] {
        let said = problems(&format!("{SHOP}endpoints = ['http://a']\n[admin]\naddress = '127.0.0.1:1'\n{token}\n"));
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn services_that_say_what_they_said_before_are_the_same_services() {
    let shop = workshop();
    for fixture in fixtures("valid") {
        let source = fs::read_to_string(&fixture).unwrap();
        let first = parse_in(&shop, &source, None).unwrap().config;
        let again = parse_in(&shop, &source, Some(&first)).unwrap().config;
        let mut pairs = first.services.iter().zip(&again.services);
        assert!(pairs.all(|(before, now)| Arc::ptr_eq(before, now)), "{}", fixture.display());
    }
}

#[test]
fn a_service_that_says_something_else_is_another_and_so_is_one_whose_defaults_do() {
    let shop = workshop();
    let of = |name: &str, port: u16| {
        format!(
            "[services.{name}]\nroutes = [{{ host = '{name}.test' }}]\n\
             [services.{name}.backends.blue]\nweight = 1\nendpoints = ['http://127.0.0.1:{port}']\n"
        )
    };
    let listener = "[[listeners]]\naddress = '127.0.0.1:0'\n";
    let first = parse_in(&shop, &[listener, &of("a", 1), &of("b", 2)].concat(), None).unwrap().config;
    let kept = |source: &[&str]| -> Vec<String> {
        let now = parse_in(&shop, &source.concat(), Some(&first)).unwrap().config;
        let is_known = |service: &&Arc<_>| first.services.iter().any(|known| Arc::ptr_eq(known, service));
        now.services.iter().filter(is_known).map(|service| service.name.to_string()).collect()
    };
    assert_eq!(kept(&[listener, &of("b", 2), &of("c", 3), &of("a", 1)]), ["b", "a"]);
    assert_eq!(kept(&[listener, &of("a", 1), &of("b", 3)]), ["a"]);
    assert_eq!(kept(&[listener, &of("a", 1), &of("b", 2).replace("routes", "body_max = '1MiB'\nroutes")]), ["a"]);
    assert_eq!(kept(&[listener, &of("a", 1), &of("b", 2), "[timeouts]\nconnect = '9s'\n"]), [""; 0]);
}

#[test]
fn an_unchanged_reload_shares_its_tls_material_and_a_broken_one_keeps_it() {
    let shop = workshop();
    let source = format!(
        "{SHOP}endpoints = ['https://a.example']\ntls = {{ ca = 'ca.pem', cert = 'cert.pem', key = 'key.pem' }}\n\
         [[listeners]]\naddress = '127.0.0.1:1'\ntls = [{{ cert = 'cert.pem', key = 'key.pem' }}]\n"
    );
    let first = parse_in(&shop, &source, None).unwrap().config;
    let same = |a: &Config, b: &Config| {
        let upstream = |config: &Config| config.services[0].backends[0].tls.clone().unwrap();
        (Arc::ptr_eq(&a.listeners[1].tls[0], &b.listeners[1].tls[0]), Arc::ptr_eq(&upstream(a), &upstream(b)))
    };
    let again = parse_in(&shop, &source, Some(&first)).unwrap();
    assert_eq!(same(&first, &again.config), (true, true));
    assert_eq!(again.warnings, []);

    let good = [fs::read(shop.path("key.pem")).unwrap(), fs::read(shop.path("ca.pem")).unwrap()];
    fs::copy(shop.path("b.key.pem"), shop.path("key.pem")).unwrap();
    shop.file("ca.pem", "");
    let kept = parse_in(&shop, &source, Some(&first)).unwrap();
    assert_eq!(same(&first, &kept.config), (true, true));
    let warned: Vec<_> = kept.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(warned, ["services.shop.backends.blue.tls.ca", "listeners[1].tls[0].key"]);
    assert!(kept.warnings[0].to_string().contains("what was read before stays in use"));
    assert!(parse_in(&shop, &source, None).is_err(), "there is nothing to keep at a first start");

    fs::copy(shop.path("b.pem"), shop.path("cert.pem")).unwrap();
    fs::write(shop.path("ca.pem"), &good[1]).unwrap();
    let renewed = parse_in(&shop, &source, Some(&first)).unwrap();
    assert_eq!(same(&first, &renewed.config), (false, false));
    assert_eq!(renewed.warnings, []);
}

#[test]
fn a_file_that_can_not_be_read_is_a_problem_too() {
    let shop = Workshop::new();
    let said = |path: &Path| load(path, None).unwrap_err().to_string();
    assert!(said(&shop.path("none.toml")).contains("none.toml: the file can't be read: No such file"));
    assert!(said(&shop.path("")).contains("the file can't be read"));
    assert!(said(Path::new("/dev/zero")).contains("/dev/zero: the file is larger than 16 MiB"));
    fs::write(shop.path("latin1.toml"), b"# ok\nx = \"caf\xe9\"\n").unwrap();
    assert!(said(&shop.path("latin1.toml")).contains("latin1.toml:2: the text is not UTF-8"));
}

/// What this thread has had of the processor, whatever else runs beside it.
fn processor_time() -> Duration {
    let account = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(account.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn hostile_texts_get_a_clear_answer() {
    let nested = format!("a = {}", "[".repeat(200_000));
    let dotted = format!("{} = 1", vec!["a"; 100_000].join("."));
    let tables = "[a]\n".repeat(50_000);
    let unknown: String = (0..50_000).map(|n| format!("k{n} = 1\n")).collect();
    let long = format!("state_dir = \"{}", "x".repeat(1 << 22));
    for source in
        [&nested, &dotted, &tables, &unknown, &long, "\0", "a = \0", "\u{feff}", "=", "[", "\r", "\u{202e}=1", "a.b.c"]
    {
        let before = processor_time();
        let said = problems(source);
        assert!(said.lines().count() <= 4_000 && said.len() < 1 << 20, "{} bytes are said", said.len());
        assert!(processor_time().saturating_sub(before) < Duration::from_secs(20));
    }
    assert!(problems("a = \0").contains("proxy.toml:1:"), "{}", problems("a = \0"));
    assert!(problems(&nested).contains("max recursion depth"));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_problem() {
    let source = format!("\u{feff}{SHOP}endpoints = ['http://a']\n").replace('\n', "\r\n");
    assert_eq!(parsed(&source).services.len(), 1);
    let broken = source.replace("weight = 1", "wieght = 1");
    assert!(problems(&broken).contains("proxy.toml:4: services.shop.backends.blue.wieght: there is no such key"));
}

/// Words that turn a mutation into something interesting more often than bytes do.
const WORDS: [&str; 16] = [
    "\"",
    "=",
    "[",
    "]]",
    "{",
    "}",
    "\n",
    "0",
    "-1",
    "nan",
    "true",
    "1979-05-27",
    "\"${X}\"",
    "''",
    "[[a]]",
    "99999999999999999999",
];

fn mutated() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..8usize, prop::sample::select(&WORDS[..]));
    prop::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut text: Vec<char> = shipped_in_full().chars().collect();
        for (at, drop, word) in edits {
            let at = at.index(text.len());
            text.splice(at..(at + drop).min(text.len()), word.chars());
        }
        text.into_iter().collect()
    })
}

thread_local! {
    /// Made once: a key pair per mutation would be all that this test does.
    static SHOP_OF_MUTANTS: RefCell<Workshop> = RefCell::new(workshop());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nor does it ever say that the schema and the shapes disagree.
    #[test]
    fn no_mutation_of_a_valid_file_makes_it_panic(source in mutated()) {
        let said = SHOP_OF_MUTANTS.with_borrow(|shop| parse_in(shop, &source, None));
        if let Err(problems) = said {
            prop_assert!(!problems.0.is_empty());
            prop_assert!(!problems.to_string().contains("please report"), "{problems}");
        }
    }

    #[test]
    fn no_text_at_all_makes_it_panic(source in "(?s).{0,200}") {
        prop_assert!(parse_in(&Workshop::new(), &source, None).is_err());
    }
}
