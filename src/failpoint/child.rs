//! Extraction children that misbehave on request: by the name of the file, for they have no environment.

use rustix::process::{Resource, Rlimit, setrlimit};

/// In the child, when it is about to read a file of this name.
pub(crate) fn misbehave(file_name: &str) {
    match file_name {
        "failpoint-abort" => std::process::abort(),
        "failpoint-spin" => {
            // The limit that it runs into, nearer: nobody waits a minute for this.
            let soon = Rlimit { current: Some(1), maximum: Some(2) };
            let _ = setrlimit(Resource::Cpu, soon); // it spins in any case
            loop {
                std::hint::spin_loop();
            }
        }
        "failpoint-allocate" => {
            // Asked for and never touched: it is the limit that is meant, not this machine's memory.
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(vec![0; 16 << 20]);
            }
        }
        _ => {}
    }
}
