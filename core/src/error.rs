//! What the core refuses, as numbers that the host turns into typed errors, each with a text for people who debug.

use crate::storage::StorageError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Malformed = 1,
    Unverified = 2,
    NotLoaded = 3,
    NoSuchGroup = 4,
    WrongEpoch = 5,
    PolicyRefused = 7,
    CounterOutdated = 8,
    Internal = 9,
    CommitPending = 10,
    NothingPending = 11,
    TooLarge = 12,
    NotForUs = 13,
    NoKeyPackage = 14,
    Expired = 15,
    Evicted = 16,
}

/// A refusal. The text never holds a key, an id or content.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    pub text: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Kind {
    pub fn because(self, text: impl Into<String>) -> Error {
        Error { kind: self, text: text.into() }
    }
}

/// For `map_err`: an error of a library becomes a refusal of *kind*, its text kept.
pub fn by<E: std::fmt::Display>(kind: Kind) -> impl Fn(E) -> Error {
    move |error| kind.because(error.to_string())
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NotLoaded => Kind::NotLoaded.because("the scope is not loaded"),
            StorageError::Corrupt => Kind::Internal.because("a stored row cannot be read"),
            StorageError::Unsupported => Kind::Internal.because("a record that Taube has no use for"),
        }
    }
}
