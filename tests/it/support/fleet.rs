//! Processes that are replaced in place: an nginx at each of several fixed addresses, and the scripts that replace them.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{eventually, free_address};

/// Ends the process at port `$1` as an init system does: gracefully, and waits for it.
const STOP: &str = r#"#!/bin/sh
set -e
cd "$(dirname "$0")/$1"
pid=$(cat nginx.pid)
kill -QUIT "$pid"
while kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
"#;

/// Has version `$2` run at port `$1` in place of what runs there.
const REPLACE: &str = r#"#!/bin/sh
set -e
echo "replacing $TIDEGATE_ENDPOINT"
"$(dirname "$0")/stop" "$1"
cd "$(dirname "$0")/$1"
sed -i "s/return 200 [a-z0-9]*;/return 200 $2;/" nginx.conf
PATH="$PATH:/usr/sbin" nginx -p . -c nginx.conf -e error.log >/dev/null 2>&1
"#;

/// Running processes; gone when dropped.
pub struct Fleet {
    pub addresses: Vec<SocketAddr>,
    folder: TempDir,
}

impl Fleet {
    /// So many, all of which answer `v1`.
    pub async fn of(count: usize) -> Self {
        let fleet = Self {
            addresses: (0..count).map(|_| free_address()).collect(),
            folder: TempDir::new().expect("there is room for temporary files"),
        };
        for (name, script) in [("stop", STOP), ("replace", REPLACE)] {
            let path = fleet.folder.path().join(name);
            fs::write(&path, script).expect("the folder is ours");
            fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("the file is ours");
        }
        for address in &fleet.addresses {
            let folder = fleet.folder.path().join(address.port().to_string());
            fs::create_dir(&folder).expect("the folder is ours");
            fs::write(folder.join("nginx.conf"), configuration(*address)).expect("the folder is ours");
            let mut started = Command::new("nginx");
            let started =
                started.args(["-p", ".", "-c", "nginx.conf", "-e", "error.log"]).current_dir(&folder).status();
            let started = started.expect("nginx is installed");
            assert!(started.success(), "nginx starts at {address}");
            eventually("nginx listens", || TcpStream::connect(address).is_ok()).await;
        }
        fleet
    }

    pub fn urls(&self) -> Vec<String> {
        self.addresses.iter().map(|address| format!("http://{address}")).collect()
    }

    /// The path of `stop` or `replace`.
    pub fn script(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Something in the folder of the scripts.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for address in &self.addresses {
            let pid = fs::read_to_string(self.file(&format!("{}/nginx.pid", address.port()))).unwrap_or_default();
            if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }
}

fn configuration(address: SocketAddr) -> String {
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths: String = paths.iter().map(|kind| format!("{kind}_temp_path {kind};\n")).collect();
    format!(
        "master_process off; pid nginx.pid;
events {{ worker_connections 256; }}
http {{ access_log off; {paths} server {{ listen {address}; location / {{ return 200 v1; }} }} }}
"
    )
}
