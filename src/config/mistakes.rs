//! All mistakes of a configuration, each a sentence with its fix; and the reader which collects them.
//!
//! Promises that nothing is skipped: a value that could not be used has left a mistake behind. Knows no setting.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use super::args::Name;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Where it was said, or should have been.
    pub name: Name,
    /// What is wrong. Never holds a secret.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name: Name { variable, flag }, what, fix } = self;
        if flag.is_empty() {
            write!(f, "{variable}: {what}; fix: {fix}")
        } else {
            write!(f, "{variable} ({flag}): {what}; fix: {fix}")
        }
    }
}

/// Everything that is wrong, in the order of the settings.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.0.len() == 1 { "mistake" } else { "mistakes" };
        write!(f, "{} {noun} in the configuration:", self.0.len())?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n{mistake}"))
    }
}

impl std::error::Error for Mistakes {}

/// What a parser of values says: what is wrong, and the fix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) fix: String,
}

/// Short for `Err(Wrong { … })`.
pub(super) fn wrong<T>(what: impl Into<String>, fix: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { what: what.into(), fix: fix.into() })
}

/// A setting as it was found: its name, and its text if there is any.
pub(super) struct Setting {
    pub(super) name: Name,
    pub(super) text: Option<String>,
}

/// Takes settings from flag or environment and collects what is wrong with them.
pub(super) struct Reader<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    names: BTreeMap<String, Name>,
    /// In a cell, so that reading a setting can be written inside the call that parses it.
    mistakes: RefCell<Vec<Mistake>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(env: &'a dyn Fn(&str) -> Option<String>, names: BTreeMap<String, Name>) -> Self {
        Self { env, names, mistakes: RefCell::default() }
    }

    /// The flag's text, else the variable's. Blank counts as absent (`NAME=` in an environment file); spaces round a
    /// value are dropped.
    pub(super) fn setting(&self, field: &str, typed: Option<&str>) -> Setting {
        let name = self.name(field);
        let text = present(typed).or_else(|| present((self.env)(&name.variable).as_deref()));
        Setting { name, text }
    }

    /// As [`Self::setting`], but with its spaces: they can be part of a password.
    pub(super) fn secret(&self, field: &str, typed: Option<&str>) -> Setting {
        let name = self.name(field);
        let text = typed.map(str::to_owned).filter(|text| !text.is_empty());
        let text = text.or_else(|| (self.env)(&name.variable).filter(|text| !text.is_empty()));
        Setting { name, text }
    }

    /// A variable that has no flag: the AWS SDK's.
    pub(super) fn variable(&self, variable: &str) -> Setting {
        let name = Name { variable: variable.to_owned(), flag: String::new() };
        Setting { text: present((self.env)(variable).as_deref()), name }
    }

    fn name(&self, field: &str) -> Name {
        // Every field of `Args` is in the map (tests walk it); a name of last resort is better than a panic here.
        self.names.get(field).cloned().unwrap_or_else(|| Name { variable: field.to_owned(), flag: String::new() })
    }

    /// The value, or the default, which takes the same way. `None` only after a mistake.
    pub(super) fn value<T>(
        &self,
        setting: &Setting,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.judge(setting, parse(setting.text.as_deref().unwrap_or(default)))
    }

    /// The value; that there is none is a mistake, with this fix. `None` only after a mistake.
    pub(super) fn required<T>(
        &self,
        setting: &Setting,
        fix: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.judge(setting, setting.text.as_deref().map_or_else(|| wrong("is required and not set", fix), parse))
    }

    /// The value, if there is any: `Some(None)` when absent, `None` only after a mistake.
    pub(super) fn optional<T>(
        &self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<Option<T>> {
        self.judge(setting, setting.text.as_deref().map(parse).transpose())
    }

    fn judge<T>(&self, setting: &Setting, parsed: Result<T, Wrong>) -> Option<T> {
        // Left behind by a variable in another encoding; a password with a hole in it would fail much later.
        let parsed = match &setting.text {
            Some(text) if text.contains(char::REPLACEMENT_CHARACTER) => wrong("is not UTF-8 text", "write it in UTF-8"),
            _ => parsed,
        };
        parsed.map_err(|Wrong { what, fix }| self.mistake(setting, what, fix)).ok()
    }

    pub(super) fn mistake(&self, setting: &Setting, what: impl Into<String>, fix: impl Into<String>) {
        let mistake = Mistake { name: setting.name.clone(), what: what.into(), fix: fix.into() };
        self.mistakes.borrow_mut().push(mistake);
    }

    /// The value, if there is one and nothing is wrong.
    pub(super) fn finish<T>(&self, value: Option<T>) -> Result<T, Mistakes> {
        let mistakes = self.mistakes.take();
        value.filter(|_| mistakes.is_empty()).ok_or(Mistakes(mistakes))
    }
}

fn present(text: Option<&str>) -> Option<String> {
    text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}
