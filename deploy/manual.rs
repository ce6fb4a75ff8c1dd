//! Writes the man pages and the completions of bash, zsh and fish, as the packages ship them, below a folder: its argument.
//!
//! A program of its own, so that the released ones carry none of it. `deploy/package.sh` runs it; a test reads what it wrote.
//! It knows no setting: all it says comes from the declarations of the command lines, under the names they are installed by.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use quittance::config::{Args, RedriveArgs};

type Declared = fn() -> Command;

/// The declaration, names on a host: the first has the pages, the others are short for it.
const PROGRAMS: [(Declared, &[&str]); 2] = [
    (Args::command, &["quittance-worker"]),
    // clap's environment is left on: the page names the variable of each flag, and no value is read.
    (RedriveArgs::command, &["quittance-redrive", "redrive"]),
];

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: manual FOLDER");
        return ExitCode::from(64);
    };
    match write_all(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: cannot write below {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// All of it.
pub fn write_all(folder: &Path) -> io::Result<()> {
    PROGRAMS.iter().try_for_each(|(command, names)| write(folder, *command, names))
}

/// What a person may type: without the worker's own extraction command, which the shells would offer.
fn shown(command: &Command) -> Command {
    let title: &'static str = command.get_name().to_owned().leak(); // clap keeps static names only; this program ends soon
    let version: Option<&'static str> = command.get_version().map(|version| &*version.to_owned().leak());
    let below = command.get_subcommands().filter(|one| !one.is_hide_set()).map(shown);
    let about = command.get_about().cloned().unwrap_or_default();
    let made = Command::new(title).about(about).args(command.get_arguments()).subcommands(below);
    version.map_or_else(|| made.clone(), |version| made.clone().version(version))
}

fn write(folder: &Path, command: Declared, names: &[&'static str]) -> io::Result<()> {
    let man = folder.join("man/man1");
    fs::create_dir_all(&man)?;
    for (nth, name) in names.iter().enumerate() {
        for (shell, path) in [
            (Shell::Bash, format!("bash-completion/completions/{name}")),
            (Shell::Zsh, format!("zsh/site-functions/_{name}")),
            (Shell::Fish, format!("fish/vendor_completions.d/{name}.fish")),
        ] {
            let path = folder.join(path);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut shown(&command()).name(*name), *name, &mut text);
            fs::write(path, text)?;
        }
        if nth == 0 {
            let mut whole = command().name(*name).bin_name(*name).disable_help_subcommand(true);
            whole.build();
            pages(&man, &whole, name)?;
        }
    }
    Ok(())
}

/// A page for the command and for each of its subcommands, as `git-log` is one of `git`'s.
fn pages(man: &Path, command: &Command, name: &str) -> io::Result<()> {
    let title: &'static str = name.to_owned().leak(); // clap keeps static names only; this program ends soon
    let page = command.clone().name(title).display_name(title);
    let mut text = Vec::new();
    Man::new(page).source(format!("quittance {}", env!("CARGO_PKG_VERSION"))).manual("quittance").render(&mut text)?;
    fs::write(man.join(format!("{name}.1")), text)?;
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    shown.into_iter().try_for_each(|one| pages(man, one, &format!("{name}-{}", one.get_name())))
}
