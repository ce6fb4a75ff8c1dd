//! systemd as a worker sees it: a notify socket, a watchdog, a file that a reload reads.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use crate::process::Launch;
use crate::waiting::{LONG, eventually, holds};

/// systemd's end of a notify socket, and the file that a reload reads.
pub struct Systemd {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Systemd {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { folder, socket, heard: Vec::new() }
    }

    /// As under `WatchdogSec=2`.
    pub fn over(&self, launch: Launch) -> Launch {
        let launch = launch.set("NOTIFY_SOCKET", self.folder.path().join("notify").display());
        launch.set("WATCHDOG_USEC", 2_000_000).set("RELOAD_FILE", self.file().display())
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("limits.env")
    }

    /// All assignments so far, in order.
    pub fn heard(&mut self) -> &[String] {
        let mut datagram = [0; 4_096];
        while let Ok(length) = self.socket.recv(&mut datagram) {
            let text = String::from_utf8(datagram[..length].to_vec()).unwrap();
            self.heard.extend(text.lines().map(str::to_owned));
        }
        &self.heard
    }

    pub fn times(&mut self, wanted: &str) -> usize {
        self.heard().iter().filter(|line| line.starts_with(wanted)).count()
    }

    pub async fn until(&mut self, wanted: &str, times: usize) {
        eventually(&format!("{wanted} {times} times"), LONG, async || {
            let heard = self.times(wanted);
            holds(heard >= times, self.heard.clone())
        })
        .await;
    }
}
