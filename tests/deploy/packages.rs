//! The packages: built from the programs under test, taken apart, and their parts held against each other and run.
//!
//! What is not on a machine (dpkg-deb, rpmbuild, groff, systemd-analyze) is said and left out; CI installs it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest as _, Sha256};

#[path = "../../deploy/manual.rs"]
#[allow(dead_code)] // its main
mod manual;

fn there(program: &str) -> bool {
    let there = Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", program]).status().unwrap().success();
    if !there {
        eprintln!("skipped in part: there is no {program} on this machine");
    }
    there
}

fn ran(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Both packages of the programs under test, as far as this machine can make them: folder, .deb, .rpm.
fn packages(folder: &Path) -> (Option<PathBuf>, Option<PathBuf>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    manual::write_all(&folder.join("manual")).unwrap();
    let kinds: Vec<_> = [("deb", "dpkg-deb"), ("rpm", "rpmbuild")].into_iter().filter(|kind| there(kind.1)).collect();
    if kinds.is_empty() || !there("objdump") {
        return (None, None);
    }
    let mut command = Command::new(root.join("deploy/package.sh"));
    let programs = Path::new(env!("CARGO_BIN_EXE_worker")).parent().unwrap();
    command.arg("--bin").arg(programs).arg("--manual").arg(folder.join("manual"));
    command.arg("--out").arg(folder.join("out")).args(kinds.iter().map(|kind| kind.0));
    // The programs of a test are of this machine, not of Amazon Linux.
    let output = command.env("PACKAGE_COMPRESSION", "fast").env("PACKAGE_GLIBC", "any").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let paths = String::from_utf8(output.stdout).unwrap();
    let find = |end: &str| paths.lines().find(|line| line.ends_with(end)).map(PathBuf::from);
    (find(".deb"), find(".rpm"))
}

/// Path → permissions, owner, and where a link leads.
type Listing = BTreeMap<String, (String, String, String)>;

fn of_deb(path: &str) -> Listing {
    let text = ran("sh", &["-c", "dpkg-deb --fsys-tarfile \"$0\" | tar -tvf - --numeric-owner", path]);
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (mode, owner) = (words.next().unwrap().to_owned(), words.next().unwrap().replace("0/0", "root:root"));
        let name = words.nth(3).unwrap().trim_start_matches('.').to_owned();
        (name, (mode, owner, words.nth(1).unwrap_or_default().to_owned()))
    };
    // A .deb names the folders on the way too; those are everybody's.
    text.lines().map(line).filter(|(_, (mode, ..))| !mode.starts_with('d')).collect()
}

fn of_rpm(path: &str) -> Listing {
    let format = "[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILELINKTOS}\\n]";
    let text = ran("rpm", &["-qp", "--qf", format, path]);
    let line = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        (words[0].to_owned(), (words[1].to_owned(), words[2].to_owned(), words[3].to_owned()))
    };
    text.lines().map(line).filter(|(_, (mode, ..))| !mode.starts_with('d')).collect()
}

/// What the issue and the units ask for; the rest is looked at by kind.
fn looks_right(listing: &Listing) {
    for (path, mode) in [
        ("/usr/bin/quittance-worker", "-rwxr-xr-x"),
        ("/usr/bin/quittance-redrive", "-rwxr-xr-x"),
        ("/usr/bin/redrive", "lrwxrwxrwx"),
        ("/etc/quittance/worker.env", "-rw-------"),
        ("/etc/quittance/limits.env", "-rw-r--r--"),
        ("/etc/quittance/redrive.env", "-rw-r--r--"),
        ("/etc/quittance/aws-config", "-rw-r--r--"),
        ("/usr/share/doc/quittance/README.md", "-rw-r--r--"),
        ("/usr/share/doc/quittance/CHANGELOG.md", "-rw-r--r--"),
        ("/usr/share/doc/quittance/copyright", "-rw-r--r--"),
        ("/usr/share/man/man1/quittance-worker.1.gz", "-rw-r--r--"),
        ("/usr/share/man/man1/quittance-worker-check.1.gz", "-rw-r--r--"),
        ("/usr/share/man/man1/quittance-redrive.1.gz", "-rw-r--r--"),
        ("/usr/share/man/man1/redrive.1.gz", "lrwxrwxrwx"),
        ("/usr/share/bash-completion/completions/redrive", "-rw-r--r--"),
        ("/usr/share/zsh/site-functions/_quittance-worker", "-rw-r--r--"),
        ("/usr/share/fish/vendor_completions.d/quittance-redrive.fish", "-rw-r--r--"),
    ] {
        assert_eq!(listing.get(path).map(|file| file.0.as_str()), Some(mode), "{path}");
    }
    assert_eq!(listing["/usr/bin/redrive"].2, "quittance-redrive");
    for (path, (mode, owner, _)) in listing {
        assert_eq!(owner, "root:root", "{path}");
        let program = path.starts_with("/usr/bin/");
        let well = program == mode.ends_with('x') && !mode.contains(['s', 't']);
        assert!(mode.starts_with('l') || well, "{path} {mode}");
        assert!(
            ["/usr/bin/", "/usr/lib/systemd/system/", "/usr/share/", "/etc/quittance/"]
                .iter()
                .any(|start| path.starts_with(start)),
            "{path}"
        );
    }
    let shipped = |folder: &str, start: &str, end: &str| -> Vec<String> {
        let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(start) && name.ends_with(end)).collect()
    };
    for unit in shipped("systemd", "quittance-", "") {
        assert!(listing.contains_key(&format!("/usr/lib/systemd/system/{unit}")), "{unit}");
    }
    for policy in shipped("deploy", "iam-", ".json") {
        assert!(listing.contains_key(&format!("/usr/share/doc/quittance/{policy}")), "{policy}");
    }
}

/// Neither package starts, stops or restarts anything but when it is removed for good, nor makes a user: the units run
/// under DynamicUser.
fn touch_no_worker(scripts: &str) {
    assert!(scripts.contains("systemctl daemon-reload"), "{scripts}");
    let acts = scripts.lines().map(str::trim).filter(|line| !line.starts_with("echo"));
    let acts: Vec<_> = acts.filter(|line| line.contains("systemctl") && !line.contains("daemon-reload")).collect();
    assert_eq!(acts.len(), 2, "{scripts}");
    assert!(
        acts[0].starts_with("systemctl disable --now ") && acts[1].starts_with("systemctl stop \"quittance-worker@*")
    );
    assert!(!scripts.contains("useradd") && !scripts.contains("adduser") && !scripts.contains("sysusers"), "{scripts}");
}

#[test]
fn the_packages_hold_the_same_files_with_the_right_modes_and_what_is_in_them_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (deb, rpm) = packages(folder.path());
    let listing = deb.as_ref().map(|deb| of_deb(deb.to_str().unwrap()));
    if let Some(listing) = &listing {
        looks_right(listing);
    }
    if let Some(rpm) = rpm.as_ref().map(|rpm| rpm.to_str().unwrap()) {
        let files = of_rpm(rpm);
        looks_right(&files);
        if let Some(listing) = &listing {
            assert_eq!(listing, &files, "the two are one tree");
        }
        let configuration = ran("rpm", &["-qpc", rpm]);
        assert_eq!(configuration.lines().count(), 4, "{configuration}");
        touch_no_worker(&ran("rpm", &["-qp", "--scripts", rpm]));
        let asks = ran("rpm", &["-qpR", rpm]);
        assert!(asks.contains("ca-certificates") && asks.contains("libc.so.6"), "{asks}");
    }
    let Some(deb) = deb else { return };
    let root = folder.path().join("root");
    let (deb, root_name) = (deb.to_str().unwrap(), root.to_str().unwrap());
    ran("dpkg-deb", &["-x", deb, root_name]);
    ran("dpkg-deb", &["-e", deb, folder.path().join("control").to_str().unwrap()]);
    let control = |name: &str| fs::read_to_string(folder.path().join("control").join(name)).unwrap();
    assert_eq!(control("conffiles").lines().count(), 4);
    assert!(control("control").contains("ca-certificates"), "{}", control("control"));
    touch_no_worker(&["postinst", "prerm", "postrm"].map(control).concat());
    for script in ["postinst", "prerm", "postrm"] {
        ran("sh", &["-n", folder.path().join("control").join(script).to_str().unwrap()]);
    }
    if let Some(rpm) = &rpm {
        let digests = ran("rpm", &["-qp", "--qf", "[%{FILENAMES} %{FILEDIGESTS}\\n]", rpm.to_str().unwrap()]);
        let digests: Vec<_> =
            digests.lines().filter_map(|line| line.split_once(' ')).filter(|one| !one.1.is_empty()).collect();
        assert!(digests.len() > 40, "{digests:?}");
        for (path, digest) in digests {
            let bytes = Sha256::digest(fs::read(root.join(path.trim_start_matches('/'))).unwrap());
            assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), digest, "{path}");
        }
    }
    run_what_is_in(&root);
    units_are_verified_in(&root, folder.path());
    pages_can_be_set(&root);
}

fn run_what_is_in(root: &Path) {
    let version = env!("CARGO_PKG_VERSION");
    for (program, name) in [("quittance-worker", "worker"), ("quittance-redrive", "redrive"), ("redrive", "redrive")] {
        let program = root.join("usr/bin").join(program);
        assert_eq!(ran(program.to_str().unwrap(), &["--version"]), format!("{name} {version}\n"));
    }
    let check = Command::new(root.join("usr/bin/quittance-worker")).arg("check").env_clear().output().unwrap();
    assert_eq!(check.status.code(), Some(78), "{check:?}");
    for missing in ["SQS_QUEUE_URL", "S3_BUCKET", "SOURCE_BUCKETS", "OPENSEARCH_ENDPOINT"] {
        assert!(said(&check).contains(missing), "{}", said(&check));
    }
    let secret = fs::metadata(root.join("etc/quittance/worker.env")).unwrap().permissions().mode();
    assert_eq!(secret & 0o7777, 0o600);
}

/// With the programs where they are in the scratch root.
fn units_are_verified_in(root: &Path, folder: &Path) {
    if !there("systemd-analyze") {
        return;
    }
    let units = folder.join("units");
    fs::create_dir(&units).unwrap();
    for unit in fs::read_dir(root.join("usr/lib/systemd/system")).unwrap() {
        let unit = unit.unwrap();
        let programs = format!("={}/usr/bin/quittance-", root.display());
        let text = fs::read_to_string(unit.path()).unwrap().replace("=/usr/bin/quittance-", &programs);
        let name = unit.file_name().into_string().unwrap();
        fs::write(units.join(&name), &text).unwrap();
        fs::write(units.join(name.replace("@.", "@1.")), text).unwrap();
    }
    for unit in fs::read_dir(&units).unwrap() {
        let path = unit.unwrap().path();
        if path.to_str().unwrap().contains("@.") {
            continue;
        }
        let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
        assert!(output.status.success() && said(&output).trim().is_empty(), "{path:?}: {}", said(&output));
    }
}

fn pages_can_be_set(root: &Path) {
    let groff = there("groff");
    let mut pages = 0;
    for page in fs::read_dir(root.join("usr/share/man/man1")).unwrap() {
        let page = page.unwrap().path();
        let text = ran("gzip", &["-dc", page.to_str().unwrap()]);
        for part in [".TH", ".SH NAME", ".SH SYNOPSIS", "quittance-"] {
            assert!(text.contains(part), "{page:?}: {part}");
        }
        assert!(!text.contains("extract-child"), "{page:?}");
        pages += 1;
        if groff {
            let set = "gzip -dc \"$0\" | groff -man -Kutf8 -Tutf8 -ww >/dev/null";
            let output = Command::new("sh").args(["-c", set, page.to_str().unwrap()]).output().unwrap();
            assert!(output.status.success() && said(&output).is_empty(), "{page:?}: {}", said(&output));
        }
    }
    assert!(pages > 15, "{pages}");
    let completions = root.join("usr/share/bash-completion/completions");
    for name in ["quittance-worker", "quittance-redrive", "redrive"] {
        let path = completions.join(name);
        ran("bash", &["-n", path.to_str().unwrap()]);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("extract-child") && text.contains("--namespace"), "{name}");
        // What a shell would offer.
        let asks = "source \"$0\"; COMP_WORDS=(\"$1\" \"\"); COMP_CWORD=1; \"$(complete -p \"$1\" | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\" \"$1\" \"\" \"$1\"; echo \"${COMPREPLY[@]}\"";
        let offered = ran("bash", &["-c", asks, path.to_str().unwrap(), name]);
        let expected = if name == "quittance-worker" { "migrate-index" } else { "purge-tombstones" };
        assert!(offered.contains(expected), "{name}: {offered}");
    }
}
