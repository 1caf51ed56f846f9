//! nginx as a plain reverse proxy in front of the mock, for comparison.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::child::Child;

/// Where nginx is looked for beside the folders of `PATH`; a user's path often lacks the first.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
/// How often another port is tried; somebody may take it between the choice and the start.
const ATTEMPTS: usize = 5;
const START_LIMIT: Duration = Duration::from_secs(5);

/// Returns where nginx is, if it is installed.
pub(crate) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join("nginx")).find(|file| file.is_file())
}

/// Starts nginx with a configuration of its own, as a process of this user, in front of `mock`.
pub(crate) async fn start(
    program: &Path,
    folder: &Path,
    mock: SocketAddr,
) -> Result<(Child, SocketAddr), Failure> {
    for _ in 0..ATTEMPTS {
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let file = folder.join("nginx.conf");
        std::fs::write(&file, configuration(folder, mock, address))?;
        let process = Command::new(program)
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(&file)
            .arg("-e")
            .arg(folder.join("nginx.log"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut child = Child::foreign("nginx", process);
        if timeout(START_LIMIT, answers(&mut child, address)).await.is_ok_and(|up| up) {
            return Ok((child, address));
        }
    }
    let log = std::fs::read_to_string(folder.join("nginx.log")).unwrap_or_default();
    Err(format!("nginx did not start: {}", log.lines().next_back().unwrap_or("no reason given"))
        .into())
}

async fn answers(child: &mut Child, address: SocketAddr) -> bool {
    loop {
        if child.has_ended().unwrap_or(true) {
            return false;
        }
        if TcpStream::connect(address).await.is_ok() {
            return true;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// One process does all the work, connections to the mock are kept, and nothing is held back:
/// what an operator sets for streams, and the least that nginx can cost.
fn configuration(folder: &Path, mock: SocketAddr, address: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    keepalive_requests 100000000;
    tcp_nodelay on;
    upstream mock {{ server {mock}; keepalive 512; keepalive_requests 100000000; }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://mock;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
        }}
    }}
}}
"
    )
}
