//! A terminal of the test's own (a pty): what a program draws there is played as a terminal would, what a person does
//! there (types, changes the window, goes away) is done to it.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

pub struct Terminal {
    keyboard: Option<Arc<File>>,
    shown: Arc<Mutex<Vec<u8>>>,
    is_over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// The side of the programs.
pub struct Line(File);

impl Line {
    /// As a standard stream of a program.
    pub fn stdio(&self) -> Stdio {
        self.0.try_clone().unwrap().into()
    }
}

impl Terminal {
    /// So many columns wide. The line is given to a program, and dropped here, or nobody ever hangs up.
    pub fn open(columns: u16) -> (Self, Line) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let line = Line(ioctl_tiocgptpeer(&master, flags | OpenptFlags::CLOEXEC).unwrap().into());
        fcntl_setfl(&master, OFlags::NONBLOCK).unwrap();
        let keyboard = Arc::new(File::from(master));
        let (shown, is_over) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicBool>::default());
        let (screen, until, keys) = (Arc::clone(&shown), Arc::clone(&is_over), Arc::clone(&keyboard));
        let reader = std::thread::spawn(move || {
            let mut some = [0; 4096];
            while !until.load(Ordering::Acquire) {
                match keys.as_ref().read(&mut some) {
                    Ok(read) => screen.lock().unwrap().extend_from_slice(&some[..read]),
                    // `EIO`: no program has the line, for now or for good.
                    Err(error) if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(5) => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(error) => panic!("the terminal: {error}"),
                }
            }
        });
        let terminal = Self { keyboard: Some(keyboard), shown, is_over, reader: Some(reader) };
        terminal.resize(columns);
        (terminal, line)
    }

    fn keyboard(&self) -> &File {
        self.keyboard.as_deref().expect("it hung up")
    }

    /// The window gets another width; who is on the line is told (SIGWINCH).
    pub fn resize(&self, columns: u16) {
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.keyboard(), size).unwrap();
    }

    /// Keys: `\x03` is Ctrl-C.
    pub fn types(&self, keys: &str) {
        self.keyboard().write_all(keys.as_bytes()).unwrap();
    }

    /// Goes away: SIGHUP to who leads the session, and every write from now on fails.
    pub fn hang_up(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.keyboard = None;
    }

    /// All that was drawn so far, escapes and all.
    pub fn drawn(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

/// What stands on the screen in the end, and what a person sees of how it came to be.
#[derive(Debug, Default)]
pub struct Screen {
    pub rows: Vec<String>,
    /// Every state of a row that was written over.
    pub overwritten: Vec<String>,
    /// Rows that ran over into the next one.
    pub wraps: usize,
    /// Escapes other than `ESC[2K`.
    pub odd: Vec<String>,
}

/// Plays what was drawn on a screen of that width.
pub fn played(drawn: &str, columns: usize) -> Screen {
    let mut screen = Screen { rows: vec![String::new()], ..Screen::default() };
    let (mut at, mut characters) = (0, drawn.chars());
    while let Some(character) = characters.next() {
        let row = screen.rows.last_mut().unwrap();
        match character {
            '\r' => at = 0,
            '\n' => screen.rows.push(String::new()),
            '\x1b' => {
                let escape: String = characters.by_ref().take(3).collect();
                if escape == "[2K" {
                    screen.overwritten.push(std::mem::take(row));
                } else {
                    screen.odd.push(escape);
                }
            }
            _ => {
                if at == columns {
                    screen.wraps += 1;
                    screen.rows.push(String::new());
                    at = 0;
                }
                let row = screen.rows.last_mut().unwrap();
                // Over what stands there, and beside the rest of it.
                *row = row.chars().take(at).chain([character]).chain(row.chars().skip(at + 1)).collect();
                at += 1;
            }
        }
    }
    screen.overwritten.retain(|row| !row.is_empty());
    screen
}
