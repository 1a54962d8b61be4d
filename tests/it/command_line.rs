//! The command as its users meet it: what it prints, where, and its exit codes.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use crate::support::{OK, Proxy, Ran, Refusing, Setup, Signal, Upstream, backend, get, named, tidegate, within};

const GOOD: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\n\
                    [services.shop.backends.blue]\nweight = 1\nendpoints = [\"http://127.0.0.1:9001\"]\n";

fn folder(text: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    fs::write(folder.path().join("proxy.toml"), text).expect("the folder is ours");
    folder
}

async fn run(arguments: &[&str]) -> Ran {
    Ran::of(&mut tidegate(arguments)).await
}

/// Runs a command in a folder.
async fn run_in(folder: &Path, arguments: &[&str]) -> Ran {
    Ran::of(tidegate(arguments).current_dir(folder)).await
}

/// Runs a command against a running proxy's admin API.
async fn ask(proxy: &Proxy, arguments: &[&str]) -> Ran {
    Ran::of(tidegate(arguments).env("TIDEGATE_ADMIN", proxy.admin().to_string())).await
}

fn ended(ran: &Ran, code: i32) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
}

#[tokio::test]
async fn check_says_that_a_good_file_is_good() {
    let folder = folder(GOOD);
    for arguments in [&["check"][..], &["check", "--config", "proxy.toml"], &["check", "-c", "./proxy.toml"]] {
        let ran = run_in(folder.path(), arguments).await;
        ended(&ran, 0);
        assert!(ran.out.ends_with("proxy.toml is valid: 1 listener, 1 service, 1 backend\n"), "{}", ran.out);
        assert_eq!(ran.err, "");
    }
    assert!(!folder.path().join("state").exists(), "checking makes nothing");
}

#[tokio::test]
async fn check_tells_every_problem_of_a_bad_file_at_once() {
    let folder = folder(&GOOD.replace("weight = 1", "wieght = 1").replace("http:", "ftp:"));
    let ran = run_in(folder.path(), &["check"]).await;
    ended(&ran, 1);
    assert_eq!(ran.out, "");
    for text in
        ["proxy.toml:4: services.shop.backends.blue.wieght", "did you mean `weight`?", "proxy.toml:5:", "problems"]
    {
        assert!(ran.err.contains(text), "{text}: {}", ran.err);
    }
    assert!(ran.err.starts_with("error:\nproxy.toml:4:"), "{}", ran.err);
}

#[tokio::test]
async fn check_names_a_file_that_is_not_there() {
    let folder = folder(GOOD);
    let ran = run_in(folder.path(), &["check", "--config", "nowhere.toml"]).await;
    ended(&ran, 1);
    assert!(ran.err.contains("nowhere.toml") && ran.err.contains("hint:"), "{}", ran.err);
}

#[tokio::test]
async fn check_warns_of_what_is_valid_and_odd() {
    let folder =
        folder(&(GOOD.to_owned() + &GOOD[GOOD.find("[services").expect("it is there")..].replace("blue", "green")));
    let ran = run_in(folder.path(), &["check"]).await;
    ended(&ran, 0);
    assert!(ran.err.starts_with("warning: ") && ran.err.contains("share the largest weight"), "{}", ran.err);
}

#[tokio::test]
async fn status_shows_every_service_as_a_table() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let settings = backend("blue", 95.0, &blue) + &backend("canary", 5.0, &canary);
    let proxy = Setup::new().settings(&settings).start().await;
    let mut client = proxy.connect().await;
    for _ in 0..20 {
        client.exchange(get("/", "")).await;
    }
    proxy.shift(r#"{"blue": 1, "canary": 3}"#).await;
    let ran = ask(&proxy, &["status"]).await;
    ended(&ran, 0);
    assert!(ran.out.starts_with("tidegate ") && ran.out.contains(&format!("pid {}", proxy.pid().as_raw_nonzero())));
    assert!(ran.out.contains("shop  (stable blue, weights changed live)"), "{}", ran.out);
    let row = |name| {
        let line = ran.out.lines().find(|line| line.trim_start().starts_with(name));
        line.expect("the backend has a row").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("BACKEND")[..4], ["BACKEND", "WEIGHT", "SHARE", "REQUESTS"]);
    assert_eq!((&*row("blue")[4], &*row("canary")[4]), ("25.00%", "75.00%"));
    assert_eq!(row("blue")[1..4], ["1", "(file:", "95)"]);
    assert_eq!(row("canary")[1..4], ["3", "(file:", "5)"]);
    let requests = |name| row(name)[5].parse::<usize>().expect("a count is a number");
    assert_eq!(requests("blue") + requests("canary"), 20);
    assert!(row("canary").contains(&canary.url()));
    let one = ask(&proxy, &["status", "shop"]).await;
    ended(&one, 0);
    assert!(one.out.starts_with("shop  (") && ran.out.ends_with(&one.out), "{}", one.out);
}

#[tokio::test]
async fn status_as_json_is_what_the_api_says() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    for (arguments, path) in
        [(vec!["status", "--json", "shop"], "/v1/services/shop"), (vec!["status", "--json"], "/v1/services")]
    {
        let ran = ask(&proxy, &arguments).await;
        ended(&ran, 0);
        let mut told: Value = serde_json::from_str(&ran.out).expect("it is JSON");
        let mut view = proxy.view(path).await;
        for value in [&mut told, &mut view] {
            if let Some(process) = value.get_mut("process").and_then(Value::as_object_mut) {
                process.remove("uptime_s");
            }
        }
        assert_eq!(told, view);
    }
}

#[tokio::test]
async fn status_says_that_the_last_reload_was_refused_and_why() {
    let upstream = Upstream::answering(OK).await;
    let mut proxy = Proxy::before(&upstream).await;
    proxy.rewrite("nonsense = 1");
    assert!(!proxy.reload().await);
    let ran = ask(&proxy, &["status"]).await;
    ended(&ran, 0);
    assert!(ran.out.contains("was refused, the old file is in force:") && ran.out.contains("nonsense"), "{}", ran.out);
}

#[tokio::test]
async fn weights_are_shown_and_shifted() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let settings = backend("blue", 1.0, &blue) + &backend("canary", 0.0, &canary);
    let proxy = Setup::new().settings(&settings).start().await;
    let ran = ask(&proxy, &["weights", "shop", "blue=0", "canary=2.5"]).await;
    ended(&ran, 0);
    assert!(ran.out.contains("2.5 (file: 0)") && ran.out.contains("100.00%"), "{}", ran.out);
    assert_eq!(proxy.fetch("/").await.text(), "canary");
    let shown = ask(&proxy, &["weights", "shop"]).await;
    ended(&shown, 0);
    assert!(shown.out.contains("2.5 (file: 0)"), "{}", shown.out);
    let json = ask(&proxy, &["weights", "--json", "shop", "canary=0", "blue=1"]).await;
    ended(&json, 0);
    let view: Value = serde_json::from_str(&json.out).expect("it is JSON");
    assert_eq!(view["backends"][0]["weight"]["effective"], 1.0);
    assert_eq!(proxy.fetch("/").await.text(), "blue");
}

#[tokio::test]
async fn what_the_proxy_refuses_is_told_with_exit_code_1() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    for (arguments, says) in [
        (vec!["weights", "shop", "green=1"], "no backend \"green\"; it has: blue"),
        (vec!["weights", "shop", "blue=0"], "at least one weight must be above 0"),
        (vec!["weights", "shop", "blue=-1"], "a weight is a number from 0 to 1000000000"),
        (vec!["weights", "shop", "blue=1", "blue=2"], "\"blue\" is given two weights"),
        (vec!["weights", "cart", "blue=1"], "no service \"cart\"; there are: shop"),
        (vec!["status", "cart"], "no service \"cart\"; there are: shop"),
        (vec!["status", "../livez"], "no service \"../livez\""),
    ] {
        let ran = ask(&proxy, &arguments).await;
        ended(&ran, 1);
        assert!(ran.err.starts_with("error: ") && ran.err.contains(says), "{arguments:?}: {}", ran.err);
        assert_eq!(ran.out, "");
    }
}

#[tokio::test]
async fn a_token_comes_by_flag_or_environment() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Setup::new().admin("token = \"s3cret\"").backend(&[upstream.url()], "").start().await;
    let ran = ask(&proxy, &["status"]).await;
    ended(&ran, 1);
    assert!(ran.err.contains("TIDEGATE_TOKEN"), "{}", ran.err);
    ended(&ask(&proxy, &["status", "--token", "s3cret"]).await, 0);
    let address = proxy.admin().to_string();
    ended(&Ran::of(tidegate(&["status", "--admin", &address]).env("TIDEGATE_TOKEN", "s3cret")).await, 0);
    assert!(!run(&["status", "--help"]).await.out.contains("s3cret"));
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_is_exit_code_3() {
    let nobody = Refusing::new().address.to_string();
    for arguments in [vec!["status"], vec!["status", "--json"], vec!["weights", "shop", "blue=1"]] {
        let ran = Ran::of(tidegate(&arguments).env("TIDEGATE_ADMIN", &nobody)).await;
        ended(&ran, 3);
        assert!(ran.err.contains(&format!("no tidegate answers at {nobody}")), "{}", ran.err);
        assert!(ran.err.contains("hint: is it running, with [admin] in its proxy.toml?"), "{}", ran.err);
    }
    ended(&run(&["status", "--admin", "no address"]).await, 3);
}

#[tokio::test]
async fn wrong_use_is_exit_code_2() {
    for arguments in [
        vec!["statsu"],
        vec!["--config", "proxy.toml"],
        vec!["run", "--workers", "0"],
        vec!["run", "--workers", "many"],
        vec!["weights"],
        vec!["weights", "shop", "blue"],
        vec!["weights", "shop", "blue=many"],
        vec!["completions", "cobol"],
        vec!["demo", "--for", "20"],
    ] {
        let ran = run(&arguments).await;
        ended(&ran, 2);
        assert!(ran.err.starts_with("error: ") && ran.out.is_empty(), "{arguments:?}: {ran:?}");
    }
    assert!(run(&["statsu"]).await.err.contains("status"), "it guesses what was meant");
}

#[tokio::test]
async fn help_and_version_are_on_stdout() {
    let help = run(&["--help"]).await;
    ended(&help, 0);
    for word in ["run", "check", "status", "weights", "schema", "completions", "Exit codes: 0 done, 1 failed"] {
        assert!(help.out.contains(word), "{word}: {}", help.out);
    }
    let version = run(&["--version"]).await;
    assert_eq!((version.code, version.out), (Some(0), format!("tidegate {}\n", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn the_schema_is_json_that_knows_every_top_level_key() {
    let ran = run(&["schema"]).await;
    ended(&ran, 0);
    let schema: Value = serde_json::from_str(&ran.out).expect("it is JSON");
    assert!(schema["$schema"].as_str().is_some_and(|url| url.contains("json-schema.org")), "{}", schema["$schema"]);
    let keys = schema["properties"].as_object().expect("a schema has properties");
    for key in ["state_dir", "workers", "listeners", "admin", "access_log", "services", "shutdown", "timeouts"] {
        assert!(keys.contains_key(key), "{key}");
    }
}

#[tokio::test]
async fn completions_are_scripts_that_shells_can_read() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&["completions", shell]).await;
        ended(&ran, 0);
        assert!(ran.out.contains("tidegate") && ran.out.contains("weights"), "{shell}");
        fs::write(folder.path().join(shell), ran.out).expect("the folder is ours");
    }
    let script = folder.path().join("bash").display().to_string();
    let checked = Ran::of(Command::new("bash").args(["-n", &script])).await;
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""));
    // As bash itself would ask it.
    let ask = format!(
        "source {script}; COMP_WORDS=(tidegate wei); COMP_CWORD=1; _tidegate tidegate wei tidegate; echo ${{COMPREPLY[@]}}"
    );
    let completed = Ran::of(Command::new("bash").args(["-c", &ask])).await;
    assert_eq!(completed.out, "weights\n", "{}", completed.err);
}

/// Runs a command whose reader has left before the first byte.
async fn run_unread(command: &mut Command) -> Ran {
    let (reader, writer) = std::io::pipe().expect("there are pipes");
    drop(reader);
    let child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    let running = child.expect("the binary runs").wait_with_output();
    let output = within("the command to end", running).await.expect("it can be waited for");
    let err = String::from_utf8(output.stderr).expect("what is printed is text");
    Ran { code: output.status.code(), out: String::new(), err }
}

#[tokio::test]
async fn a_reader_that_leaves_early_is_no_failure() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let folder = folder(GOOD);
    for arguments in [
        &["schema"][..],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["check"],
        &["status"],
        &["status", "--json"],
        &["status", "--watch"],
        &["weights", "shop"],
        &["--help"],
    ] {
        let mut command = tidegate(arguments);
        let ran = run_unread(command.current_dir(folder.path()).env("TIDEGATE_ADMIN", proxy.admin().to_string())).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[tokio::test]
async fn watching_shows_the_status_again_and_again_until_interrupted() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let mut command = tidegate(&["status", "-w"]);
    command.env("TIDEGATE_ADMIN", proxy.admin().to_string()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut watching = command.spawn().expect("the binary runs");
    let mut lines = BufReader::new(watching.stdout.take().expect("stdout is piped")).lines();
    let mut headers = 0;
    while headers < 2 {
        let line = within("a line", lines.next_line()).await.expect("stdout is open").expect("it goes on");
        assert!(!line.contains('\u{1b}'), "no control characters off a terminal: {line:?}");
        headers += usize::from(line.starts_with("tidegate "));
    }
}

#[tokio::test]
async fn plain_tidegate_runs_the_proxy_toml_of_its_folder() {
    let upstream = Upstream::answering(OK).await;
    let address = crate::support::free_address();
    let folder =
        folder(&GOOD.replace("127.0.0.1:0", &address.to_string()).replace("http://127.0.0.1:9001", &upstream.url()));
    let log = folder.path().join("log");
    let mut command = tidegate(&[]);
    command.current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    command.stderr(File::create(&log).expect("the folder is ours"));
    let mut running = command.spawn().expect("the binary runs");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    crate::support::eventually("it is ready", || said().contains("ready")).await;
    assert_eq!(crate::support::Wire::connect(address).await.exchange(get("/", "")).await.text(), "ok");
    assert!(folder.path().join("state/lock").exists());
    assert!(!said().contains('\u{1b}'), "no colours off a terminal: {}", said());
    let pid = rustix::process::Pid::from_raw(running.id().expect("it runs").cast_signed()).expect("not zero");
    rustix::process::kill_process(pid, Signal::TERM).expect("it is ours");
    assert_eq!(within("its end", running.wait()).await.expect("it can be waited for").code(), Some(0));
}

#[tokio::test]
async fn run_refuses_a_bad_file_with_all_its_problems() {
    let folder = folder(&GOOD.replace("weight = 1", "wieght = 1"));
    for arguments in [&[][..], &["run"], &["run", "--config", "proxy.toml"]] {
        let ran = run_in(folder.path(), arguments).await;
        ended(&ran, 1);
        assert!(ran.err.contains("did you mean `weight`?"), "{}", ran.err);
    }
    let ran = run_in(tempfile::tempdir().expect("there is room").path(), &[]).await;
    ended(&ran, 1);
    assert!(ran.err.contains("proxy.toml") && ran.err.contains("hint:"), "{}", ran.err);
}

/// The next line of a demo that has `text` in it.
async fn line_with(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) -> String {
    let found = async {
        while let Some(line) = lines.next_line().await.expect("stdout is open") {
            if line.contains(text) {
                return line;
            }
        }
        panic!("the demo ends without {text:?}");
    };
    within(text, found).await
}

/// The next lines of a demo with these texts in them, in whatever order they come.
async fn lines_with<const N: usize>(lines: &mut Lines<BufReader<ChildStdout>>, texts: [&str; N]) -> [String; N] {
    let mut found: [Option<String>; N] = std::array::from_fn(|_| None);
    let finding = async {
        while found.iter().any(Option::is_none) {
            let line = lines.next_line().await.expect("stdout is open").expect("the demo goes on");
            let place = texts.iter().zip(&found).position(|(text, found)| found.is_none() && line.contains(text));
            if let Some(place) = place {
                found[place] = Some(line);
            }
        }
    };
    within(&texts.join(", "), finding).await;
    found.map(|line| line.expect("all were found"))
}

/// Runs a command as a demo shows it: from its dollar sign on.
async fn run_shown(line: &str) -> Ran {
    let (_, command) = line.split_once("$ ").expect("a command is shown with a prompt");
    let ran = Ran::of(Command::new("sh").args(["-c", command]).env_remove("TIDEGATE_ADMIN")).await;
    ended(&ran, 0);
    ran
}

#[tokio::test]
async fn the_demo_compares_a_release_rolls_it_out_takes_a_bad_one_back_and_flips_and_nobody_sees_an_error() {
    let mut command = tidegate(&["demo"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut demo = command.spawn().expect("the binary runs");
    let mut lines = BufReader::new(demo.stdout.take().expect("stdout is piped")).lines();
    line_with(&mut lines, "Mirror green").await;
    line_with(&mut lines, "shadow verdict by tidegate").await;
    line_with(&mut lines, "green is different: $.total changed, in ").await;
    line_with(&mut lines, "blue says $.total is 19.99, green says 19.98").await;
    let anew = line_with(&mut lines, "$ ").await;
    assert!(anew.contains(" shadow shop --reset"), "{anew}");

    line_with(&mut lines, "Release it as a canary").await;
    let deploy = line_with(&mut lines, "$ ").await;
    assert!(deploy.contains(" deploy shop --revision v1.5.0 --endpoint http://127.0.0.1:"), "{deploy}");
    for weights in ["blue=95 green=5", "blue=75 green=25", "blue=5 green=95"] {
        line_with(&mut lines, &format!("{weights} in force")).await;
    }
    lines_with(&mut lines, ["blue=0 green=100 in force", "green is stable now; blue stays warm with v1.4.2."]).await;
    // The same again changes nothing.
    assert!(run_shown(&deploy).await.out.contains("completed"), "{deploy}");

    line_with(&mut lines, "answers 500 to everything").await;
    let told =
        lines_with(&mut lines, ["It failed ", " of them in its place; ", " events shop", "rollout ended by"]).await;
    let [failed, rescued, events, _] = told;
    let number = |line: &str, before: &str| {
        let (_, number) = line.split_once(before).expect("it was looked for");
        number.split_whitespace().next().and_then(|number| number.parse::<u32>().ok()).expect("it is a number")
    };
    let count = number(&failed, "It failed ");
    assert!(count >= 3 && failed.contains(" ms after the first"), "{failed}");
    assert_eq!(number(&rescued, "green answered "), count);
    assert!(rescued.ends_with("clients saw 0 errors."), "{rescued}");
    let events = run_shown(&events).await;
    assert!(events.out.contains("v1.6.0-rc.1 rolled back: "), "{}", events.out);

    line_with(&mut lines, "Release it blue/green").await;
    let [.., back] =
        lines_with(&mut lines, ["blue=100 green=0 in force", "blue has all of it, ", " rollback shop"]).await;
    run_shown(&back).await;
    line_with(&mut lines, "blue=0 green=100 in force").await;

    let pid = rustix::process::Pid::from_raw(demo.id().expect("it runs").cast_signed()).expect("not zero");
    rustix::process::kill_process(pid, Signal::INT).expect("it is ours");
    let end = line_with(&mut lines, " requests: ").await;
    assert!(end.contains(&format!(", {count} of them rescued by stable, 0 errors, 0 lost.")), "{end}");
    let status = within("the demo to end", demo.wait()).await.expect("it can be waited for");
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_demo_ends_by_itself_after_the_time_it_was_given() {
    let ran = run(&["demo", "--for", "500ms"]).await;
    ended(&ran, 0);
    assert!(ran.out.contains(" 0 errors, 0 lost."), "{}", ran.out);
    assert_eq!(ran.err, "");
}
