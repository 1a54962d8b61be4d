//! The reading and checking of proxy.toml.

use std::path::Path;

use tidegate::config::{Config, parse};

/// Problems are told up to here, however many there are.
const SAID_BYTES_MAX: usize = 1 << 20;

/// The text of a file in a folder that doesn't exist.
pub fn config(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let env = |name: &str| (name == "PORT").then(|| "8080".to_owned());
    match parse(source, Path::new("/nowhere/proxy.toml"), &env, None) {
        Ok(loaded) => check(&loaded.config),
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused without a reason");
            let lines = source.split('\n').count();
            assert!(problems.0.iter().all(|problem| problem.line.is_none_or(|line| (1..=lines).contains(&line))));
            let said = problems.to_string();
            assert!(!said.contains("please report"), "{said}");
            assert!(said.len() < SAID_BYTES_MAX, "{} bytes are said", said.len());
        }
    }
}

/// What everybody else takes for granted.
fn check(config: &Config) {
    assert!(!config.listeners.is_empty());
    assert!(config.services.iter().filter(|service| service.routes.is_empty()).count() <= 1, "two take the rest");
    for service in &config.services {
        let backends = service.backends.len();
        assert!(service.stable < backends && service.rules.iter().all(|rule| rule.backend < backends));
        assert!(service.backends.iter().any(|backend| !backend.weight.is_zero()), "nobody has a weight");
        assert!(service.backends.iter().all(|backend| !backend.endpoints.is_empty()));
    }
}
