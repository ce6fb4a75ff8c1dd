//! deploy.sh against a real sshd on loopback, real workers and the real services: releases that are good, and releases that are
//! not, which are rolled back.
//!
//! The host is a scratch root. There is no systemd in a test: `systemctl` and `journalctl` are small stand-ins (deploy/), which
//! start what the unit says and wait for its READY as systemd would. `aws` is one too: two commands, by curl.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::waiting::{LONG, eventually};
use crate::world::{World, queue};

const WORKER: &str = env!("CARGO_BIN_EXE_worker");
const REDRIVE: &str = env!("CARGO_BIN_EXE_redrive");

/// A host: sshd, and everything below a scratch root.
struct Host {
    folder: tempfile::TempDir,
    sshd: Child,
    port: u16,
    admin: u16,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new(self.path("bin/systemctl")).arg("stop").arg("quittance-worker.service").status();
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

fn executable(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Host {
    /// `None`, and a line, where there is no sshd: nothing is installed by a test.
    fn new(world: &World) -> Option<Self> {
        let missing = ["/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/ssh-keygen", "/usr/bin/curl", "/usr/bin/python3"];
        if let Some(missing) = missing.iter().find(|path| !Path::new(path).exists()) {
            eprintln!("skipped: there is no {missing} on this machine");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["host", "user"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(name)).status();
            assert!(made.unwrap().success());
        }
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, admin) = (free(), free());
        let root = at("root");
        for (name, text) in
            [("systemctl", include_str!("deploy/systemctl")), ("journalctl", include_str!("deploy/journalctl"))]
        {
            executable(&at("bin").join(name), &text.replace("@ROOT@", root.to_str().unwrap()));
        }
        executable(&at("aws"), include_str!("deploy/aws"));
        fs::copy(at("user.pub"), at("authorized")).unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", at("bin").display());
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {keys}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\nSetEnv PATH={path}\n",
            host = at("host").display(),
            keys = at("authorized").display(),
        );
        fs::write(at("sshd_config"), config).unwrap();
        fs::create_dir_all("/run/sshd").ok();
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(at("sshd_config")).stdin(Stdio::null());
        let sshd = command.stderr(fs::File::create(at("sshd.log")).unwrap()).spawn().unwrap();
        let host = Self { folder, sshd, port, admin };
        host.configure(world, "");
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn root(&self, name: &str) -> PathBuf {
        self.path("root").join(name)
    }

    /// Its worker.env, root's only.
    fn configure(&self, world: &World, more: &str) {
        let launch = world.launch().set("ADMIN_LISTEN", format!("127.0.0.1:{}", self.admin));
        let launch = launch.set("TEMP_DIR", self.path("temp").display()).set("LOG_FORMAT", "json");
        let lines = launch.environment.iter().filter(|(name, _)| !["PATH", "HOME"].contains(&name.as_str()));
        let text: String = lines.map(|(name, value)| format!("{name}=\"{value}\"\n")).collect();
        fs::create_dir_all(self.root("etc/quittance")).unwrap();
        fs::write(self.root("etc/quittance/worker.env"), format!("# as an operator fills it in\n{text}{more}"))
            .unwrap();
    }

    /// A folder as `deploy.sh` takes it: the real programs, or a worker that goes wrong in one way.
    fn release(&self, name: &str, worker: &str) -> String {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        executable(&folder.join("worker"), &format!("#!/bin/sh\n# {name}\nreal={WORKER}\n{worker}\n"));
        executable(&folder.join("redrive"), &format!("#!/bin/sh\n# {name}\nexec {REDRIVE} \"$@\"\n"));
        folder.to_str().unwrap().to_owned()
    }

    /// `deploy.sh`, about this host.
    fn command(&self, words: &[&str]) -> Command {
        let ssh = format!(
            "ssh -F none -p {} -i {} -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR",
            self.port,
            self.path("user").display()
        );
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/deploy.sh"));
        command
            .args(words)
            .arg("--root")
            .arg(self.path("root"))
            .env("DEPLOY_SSH", ssh)
            .env("DEPLOY_AWS", self.path("aws"));
        command.stdin(Stdio::null());
        command
    }

    fn deploy(&self, words: &[&str]) -> (i32, String) {
        let began = Instant::now();
        let output = self.command(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        println!("---- deploy.sh {words:?}: {:?} after {:?}\n{said}", output.status.code(), began.elapsed());
        (output.status.code().unwrap_or(-1), said)
    }

    fn installed(&self) -> String {
        let text = fs::read_to_string(self.root("usr/bin/quittance-worker")).unwrap();
        text.lines().nth(1).unwrap().trim_start_matches("# ").to_owned()
    }

    fn backups(&self) -> usize {
        let entries = fs::read_dir(self.root("var/lib/quittance/releases")).unwrap();
        entries.filter(|one| one.as_ref().unwrap().file_name().to_str().unwrap().starts_with('2')).count()
    }
}

const GOOD: &str = "exec \"$real\" \"$@\"";

const AT: &str = "127.0.0.1";

async fn host(world: &World) -> Option<Host> {
    let host = Host::new(world)?;
    eventually("sshd", LONG, async || tokio::net::TcpStream::connect((AT, host.port)).await.map(drop)).await;
    Some(host)
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_release_that_proves_itself_stays_and_a_dirty_pairing_is_refused_before_anything_changes() {
    let world = World::new().await;
    let Some(host) = host(&world).await else { return };
    let (first, second) = (host.release("first", GOOD), host.release("second", GOOD));

    let (code, said) = host.deploy(&[AT, &first, "--dry-run"]);
    assert!(code == 0 && said.contains("installed: nothing") && !host.root("usr/bin").exists(), "{said}");
    let other = queue(&world.sqs, &format!("{}-other", world.source), &[]).await;
    host.configure(&world, &format!("SQS_DLQ_URL={other}\n"));
    let (code, said) = host.deploy(&[AT, &first]);
    assert!(code == 4 && said.contains("FAIL  dlq_pairing") && said.contains("nothing was changed"), "{code} {said}");
    assert!(!host.root("usr/bin").exists());
    host.configure(&world, "");

    let (code, said) = host.deploy(&["deploy", AT, &first, "--send", "5"]);
    assert_eq!((code, host.installed().as_str()), (0, "first"), "{said}");
    for line in ["5 settled here", "found by search: 5", "in step (5 traced)", "in the books: 5 done", "found no more"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("test\""), "a secret: {said}");
    let (code, said) = host.deploy(&["deploy", AT, &second, "--send", "0"]);
    assert_eq!((code, host.installed().as_str(), host.backups()), (0, "second", 2), "{said}");
    let mode = fs::metadata(host.root("var/lib/quittance/releases")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "environment files lie there");
    // Again: nothing is installed, nothing is restarted.
    let (code, said) = host.deploy(&[AT, &second, "--send", "0"]);
    assert!(code == 0 && said.contains("nothing to install") && !said.contains("restarting"), "{said}");
    let (code, said) = host.deploy(&["monitor", AT, "--for", "1", "--every", "1"]);
    assert!(code == 0 && said.contains("balanced 1"), "{said}");

    // By hand, to the release before; a second time there is none.
    let (code, said) = host.deploy(&["rollback", AT]);
    assert_eq!((code, host.installed().as_str()), (0, "first"), "{said}");
    let (code, said) = host.deploy(&["rollback", AT]);
    assert!(code == 70 && said.contains("no release to go back to"), "{code} {said}");
    assert_eq!(host.deploy(&["status", "nobody.invalid"]).0, 75);
    world.emptied().await;
    world.dlq_is_empty().await;
    world.finds_exactly(Vec::<String>::new()).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_release_that_exits_hangs_or_indexes_nothing_is_rolled_back_and_one_cut_off_keeps_its_way_back() {
    let world = World::new().await;
    let Some(host) = host(&world).await else { return };
    let good = host.release("good", GOOD);
    let (code, said) = host.deploy(&[AT, &good, "--send", "0"]);
    assert_eq!((code, host.installed().as_str()), (0, "good"), "{said}");
    // What hangs is given little time; the others are found out at once, or by their files.
    for (name, ready, worker, why) in [
        ("exits", "60", "echo 'no good' >&2; exit 78", "did not become ready"),
        ("hangs", "6", "exec sleep 600", "did not become ready"),
        ("blind", "60", "export SKIP_OPENSEARCH=true", "0 of 3 settled here as deleted"),
    ] {
        let bad = host.release(name, &format!("case $1 in run) {worker} ;; esac\n{GOOD}"));
        let (code, said) = host.deploy(&[AT, &bad, "--send", "3", "--timeout", "3", "--ready", ready]);
        assert_eq!((code, host.installed().as_str()), (1, "good"), "{name}: {said}");
        assert!(said.contains(why) && said.contains("rolling back") && said.contains("back to 2"), "{name}: {said}");
    }
    // Cut off while it waits: it says how things stand, and the way back is the last release that was seen at work.
    let hangs = host.path("hangs").to_str().unwrap().to_owned();
    let mut command = host.command(&[AT, &hangs, "--send", "0", "--ready", "5"]);
    let cut = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pending = host.root("var/lib/quittance/releases/pending");
    let replaced = async || if pending.exists() && host.installed() == "hangs" { Ok(()) } else { Err("not yet") };
    eventually("the programs are replaced", LONG, replaced).await;
    kill_process_group(Pid::from_child(&cut), Signal::INT).unwrap();
    let output = cut.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(130) && said.contains("left in the middle"), "{output:?}");
    let (code, said) = host.deploy(&["rollback", AT]);
    assert_eq!((code, host.installed().as_str()), (0, "good"), "{said}");
    // What is back works, and what the blind one parked is in the end as if nothing had been.
    let (code, said) = host.deploy(&["verify", AT, "--send", "2"]);
    assert_eq!(code, 0, "{said}");
    world.emptied().await;
    world.dlq_is_empty().await;
    world.finds_exactly(Vec::<String>::new()).await;
}

#[test]
fn words_that_make_no_sense_are_usage() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/deploy.sh");
    for (words, expected) in [
        (&["--help"][..], 0),
        (&[], 64),
        (&["host"], 64),
        (&["host", "/nowhere.rpm"], 64),
        (&["host", "/bin/sh"], 64),
        (&["verify", "host", "--send", "many"], 64),
        (&["verify", "host", "--send", "101"], 64),
        (&["deploy", "host", "/tmp", "--loud"], 64),
        (&["rollback", "host", "--to", "../../etc"], 64),
        (&["verify", "host", "--source", "b'; reboot; '"], 64),
    ] {
        let output = Command::new(&script).args(words).env("DEPLOY_SSH", "false").output().unwrap();
        assert_eq!(output.status.code(), Some(expected), "{words:?}: {output:?}");
    }
    for name in ["deploy.sh", "on-host.sh", "package.sh"] {
        if let Ok(output) = Command::new("shellcheck").arg(script.with_file_name(name)).output() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
