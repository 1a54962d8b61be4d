//! Services: their backends, the stable one, rules, and whether their routes leave room for each other.

use std::collections::HashMap;
use std::time::Duration;

use super::conditions::RuleConditions;
use super::guard::guard;
use super::{Check, Defaults, Fault, routes, unless_reported};
use crate::config::file::{DurationText, RuleFile, ServiceFile, ServiceTimeoutsFile};
use crate::config::key_path::KeyPath;
use crate::config::suggestion::closest;
use crate::config::table::Table;
use crate::config::types::{BackendConfig, RequestTimeouts, RuleConfig, ServiceConfig};
use crate::model::{RouteId, RouteMatch, ServiceName};

impl Check<'_, '_> {
    pub(super) fn services(
        &mut self,
        at: &KeyPath,
        files: &Table<ServiceFile>,
        defaults: &Defaults,
    ) -> Option<Vec<ServiceConfig>> {
        if files.0.is_empty() {
            self.report.absent(
                at,
                "there is no service",
                "add [services.NAME] with a backend: [services.NAME.backends.NAME]",
            );
        }
        let mut seen = HashMap::new();
        let services: Vec<_> =
            files.0.iter().map(|(name, file)| self.service(&at.key(name), name, file, defaults, &mut seen)).collect();
        self.catch_all_clashes(at, files);
        self.preview_hosts(at, files, &services);
        services.into_iter().collect()
    }

    /// `seen`: where each route of the file so far stands, by its identity.
    fn service(
        &mut self,
        at: &KeyPath,
        name: &str,
        file: &ServiceFile,
        defaults: &Defaults,
        seen: &mut HashMap<String, KeyPath>,
    ) -> Option<ServiceConfig> {
        let name = self.name::<ServiceName>(at, name);
        let routes = self.routes(&at.key("routes"), file, seen);
        let backends = self.backends(at, file);
        let stable = self.stable(at, file);
        let sticky = file.sticky.as_ref().map(|sticky| self.sticky(&at.key("sticky"), sticky));
        let access = self.access(at, file);
        let https_redirect = self.https_redirect(at, file);
        let hsts = file.hsts.as_ref().map(|hsts| self.hsts(&at.key("hsts"), hsts));
        let rate_limits = self.rate_limits(&at.key("rate_limits"), &file.rate_limits);
        let rules = self.rules(at, file);
        let errors = match &file.errors {
            Some(errors) => self.error_pages(&at.key("errors"), errors, &defaults.errors),
            None => Some(defaults.errors.clone()),
        };
        let maintenance = file.maintenance.as_ref().map(|file| self.maintenance(&at.key("maintenance"), file));
        let compression = file.compression.as_ref().map(|file| self.compression(&at.key("compression"), file));
        let ejection = self.ejection(&at.key("ejection"), &file.ejection);
        let slow_start = self.duration(&at.key("slow_start"), &file.slow_start);
        let timeouts = self.service_timeouts(&at.key("timeouts"), file.timeouts.as_ref(), defaults.timeouts.as_ref());
        let body_max = file.body_max.as_ref().map(|size| self.positive_size(&at.key("body_max"), size));
        let attempts = self.attempts(at, file);
        let request_headers =
            file.request_headers.as_ref().map(|file| self.request_headers(&at.key("request_headers"), file));
        let response_headers =
            file.response_headers.as_ref().map(|file| self.response_headers(&at.key("response_headers"), file));
        let probation = file.probation.as_ref().map(|file| self.probation(&at.key("probation"), file));
        let mirrors = self.mirrors(at, file);
        let rollout = self.rollout(at, file, mirrors.as_deref());
        let routes = routes?;
        let route_ids: Vec<_> = routes.iter().map(|route| RouteId::new(&routes::identity(route))).collect();
        let judged = file.routes.iter().flatten().zip(&route_ids).filter(|(route, _)| route.judged);
        let judged_routes = judged.map(|(_, id)| *id).collect();
        Some(ServiceConfig {
            guard: guard(file),
            probation: unless_reported(probation)?,
            judged_routes,
            name: name?,
            routes,
            route_ids,
            backends: backends?,
            stable: stable?,
            sticky: unless_reported(sticky)?,
            access: access?,
            https_redirect,
            hsts: unless_reported(hsts)?,
            rate_limits: rate_limits?,
            rules: rules?,
            timeouts: timeouts?,
            body_max: unless_reported(body_max)?,
            attempts: attempts?,
            errors: errors?,
            maintenance: unless_reported(maintenance)?.flatten(),
            compression: unless_reported(compression)?,
            ejection: unless_reported(ejection)?,
            slow_start: slow_start?,
            mirrors: mirrors?,
            rollout: rollout?,
            request_headers: unless_reported(request_headers)?,
            response_headers: unless_reported(response_headers)?,
        })
    }

    pub(super) fn name<N: std::str::FromStr<Err = crate::model::NameError>>(
        &mut self,
        at: &KeyPath,
        name: &str,
    ) -> Option<N> {
        let hint = "names appear in URLs, labels and commands, so they keep to plain characters";
        self.accept(at, name.parse().map_err(|error: crate::model::NameError| Fault::new(error.to_string(), hint)))
    }

    fn routes(
        &mut self,
        at: &KeyPath,
        file: &ServiceFile,
        seen: &mut HashMap<String, KeyPath>,
    ) -> Option<Vec<RouteMatch>> {
        let mut routes = Vec::new();
        for (index, file) in file.routes.iter().flatten().enumerate() {
            let at = at.index(index);
            let route = self.route(&at, file);
            if let Some(route) =
                route.as_ref().filter(|_| !self.report.is_broken(&at) && !self.report.has_broken_part(&at))
            {
                if let Some(first) = seen.get(&routes::identity(route)) {
                    let message = format!("this route is the same as {}", self.report.place(first));
                    self.report.problem(&at, message, "remove one of them, or add a condition to one");
                } else {
                    seen.insert(routes::identity(route), at);
                }
            }
            routes.push(route);
        }
        routes.into_iter().collect()
    }

    /// A service without routes takes everything that others leave, so there can be only one.
    fn catch_all_clashes(&mut self, at: &KeyPath, files: &Table<ServiceFile>) {
        let mut first: Option<KeyPath> = None;
        for (name, file) in &files.0 {
            let at = at.key(name);
            if file.routes.is_some() || self.report.is_broken(&at.key("routes")) {
                continue;
            }
            if let Some(first) = &first {
                let message = format!("the service has no routes, and neither has {}", self.report.place(first));
                let hint = "only one service can take what the others leave; give this one routes = [{ host = \"…\" }]";
                self.report.absent(&at.key("routes"), message, hint);
            } else {
                first = Some(at);
            }
        }
    }

    fn backends(&mut self, at: &KeyPath, file: &ServiceFile) -> Option<Vec<BackendConfig>> {
        let files = &file.backends.0;
        let at_backends = at.key("backends");
        if files.is_empty() {
            let hint = "add one: a [services.NAME.backends.NAME] table with weight and endpoints";
            self.report.absent(&at_backends, "the service has no backend", hint);
        } else if files.iter().all(|(name, backend)| {
            backend.weight == 0.0 && !self.report.is_broken(&at_backends.key(name).key("weight"))
        }) {
            let hint = "give at least one backend a weight above 0";
            self.report.problem(&at_backends, "every weight is 0, so no backend would get a request", hint);
        }
        let backends: Vec<_> =
            files.iter().map(|(name, file)| self.backend(&at_backends.key(name), name, file)).collect();
        backends.into_iter().collect()
    }

    /// The index of the stable backend: the one that is named, else the first of the largest weight.
    fn stable(&mut self, at: &KeyPath, file: &ServiceFile) -> Option<usize> {
        if let Some(name) = &file.stable {
            return self.backend_index(at, &at.key("stable"), name, file);
        }
        let weights = || file.backends.0.iter().map(|(_, backend)| backend.weight);
        let largest = weights().fold(f64::NEG_INFINITY, f64::max);
        let mut tied = weights().enumerate().filter(|(_, weight)| *weight >= largest).map(|(index, _)| index);
        let stable = tied.next()?;
        if let Some(other) = tied.next() {
            let name = |index: usize| &file.backends.0[index].0;
            let message = format!(
                "`{}` and `{}` share the largest weight, so which of them is stable is a guess, and the guard only observes",
                name(stable),
                name(other)
            );
            self.report.warning(at, message, format!("say which it is: stable = {:?}", name(stable)));
        }
        Some(stable)
    }

    /// `at`: where the backend is named.
    pub(super) fn backend_index(
        &mut self,
        service: &KeyPath,
        at: &KeyPath,
        name: &str,
        file: &ServiceFile,
    ) -> Option<usize> {
        let names = || file.backends.0.iter().map(|(name, _)| name.as_str());
        if let Some(index) = names().position(|known| known == name) {
            return Some(index);
        }
        if self.report.is_broken(&service.key("backends")) {
            return None;
        }
        let hint = match closest(name, names()) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("the backends of this service are {}", names().collect::<Vec<_>>().join(", ")),
        };
        self.report.absent(at, format!("the service has no backend {name:?}"), hint);
        None
    }

    fn rules(&mut self, service: &KeyPath, file: &ServiceFile) -> Option<Vec<RuleConfig>> {
        let rule = |(index, rule): (usize, &RuleFile)| {
            let at = service.key("rules").index(index);
            let conditions = RuleConditions {
                headers: &rule.headers,
                query: &rule.query,
                cookies: &rule.cookies,
                networks: rule.networks.as_deref(),
            };
            let matches = self.rule_match(&at, &conditions);
            let backend = self.backend_index(service, &at.key("backend"), &rule.backend, file);
            Some(RuleConfig { matches: matches?, backend: backend? })
        };
        file.rules.iter().enumerate().map(rule).collect::<Vec<_>>().into_iter().collect()
    }

    fn service_timeouts(
        &mut self,
        at: &KeyPath,
        file: Option<&ServiceTimeoutsFile>,
        defaults: Option<&RequestTimeouts>,
    ) -> Option<RequestTimeouts> {
        let (connect, response_header) =
            (file.and_then(|f| f.connect.as_ref()), file.and_then(|f| f.response_header.as_ref()));
        let (body_idle, request) = (file.and_then(|f| f.body_idle.as_ref()), file.and_then(|f| f.request.as_ref()));
        let mut given = |key: &str, text: Option<&DurationText>, default: Option<Duration>| match text {
            Some(text) => self.positive_duration(&at.key(key), text),
            None => default,
        };
        let connect = given("connect", connect, defaults.map(|d| d.connect));
        let response_header = given("response_header", response_header, defaults.map(|d| d.response_header));
        let body_idle = given("body_idle", body_idle, defaults.map(|d| d.body_idle));
        let request = match request {
            Some(text) => given("request", Some(text), None).map(Some),
            None => defaults.map(|d| d.request),
        };
        let restart_wait = match file.and_then(|f| f.restart_wait.as_ref()) {
            Some(text) => self.duration(&at.key("restart_wait"), text),
            None => defaults.map(|d| d.restart_wait),
        };
        Some(RequestTimeouts {
            connect: connect?,
            response_header: response_header?,
            restart_wait: restart_wait?,
            body_idle: body_idle?,
            request: request?,
        })
    }
}
