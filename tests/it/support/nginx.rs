//! nginx as an endpoint, the way the system packages it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{eventually, free_address};

/// A running nginx; gone when dropped.
pub struct Nginx {
    pub address: SocketAddr,
    process: Child,
    folder: TempDir,
}

impl Nginx {
    /// Starts one with a server of `settings`. `{address}` in them is where it has to listen, `{folder}` a folder of
    /// its own that holds `files`.
    pub async fn start(settings: &str, files: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().expect("there is room for temporary files");
        for (name, content) in files {
            fs::write(folder.path().join(name), content).expect("the folder is ours");
        }
        let address = free_address();
        let path = folder.path().display().to_string();
        let server = settings.replace("{address}", &address.to_string()).replace("{folder}", &path);
        fs::write(folder.path().join("nginx.conf"), configuration(&server)).expect("the folder is ours");
        let process = Command::new("nginx")
            .args(["-p", &path, "-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        let nginx = Self { address, process, folder };
        eventually("nginx listens", || TcpStream::connect(address).is_ok()).await;
        nginx
    }

    /// What it logged of so many requests, a line each as `log_format` of `configuration` has it: it writes them after it
    /// has answered.
    pub async fn access_log(&self, requests: usize) -> String {
        let log = || fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        eventually(&format!("nginx has logged {requests} requests"), || log().lines().count() >= requests).await;
        let log = log();
        assert_eq!(log.lines().count(), requests, "{log}");
        log
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default();
            eprintln!("---- nginx {}\n{log}", self.address);
        }
    }
}

fn configuration(server: &str) -> String {
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths: String = paths.iter().map(|kind| format!("{kind}_temp_path {kind};\n")).collect();
    format!(
        "daemon off; master_process off; pid nginx.pid;
events {{ worker_connections 1024; }}
http {{
log_format plain '$request|$http_host|$http_x_forwarded_for|$connection';
access_log access.log plain;
{paths}
server {{ {server} }}
}}
"
    )
}
