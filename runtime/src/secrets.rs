//! Sealing of provider keys: what the store holds of them is of no use without a master key, which is never there.
//!
//! AES-256-GCM with a random nonce of 96 bits for each seal (NIST SP 800-38D allows 2^32 of those under one key). The
//! name and the version of a secret are bound in as associated data: a sealed value opens only in the place and the
//! version that it was sealed for.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use data_encoding::{BASE64, HEXLOWER};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

#[cfg(test)]
mod tests;

/// Bytes of a master key.
const KEY_BYTES: usize = 32;
/// Before the associated data, so that these keys can never open what was sealed for another purpose.
const DOMAIN: &[u8] = b"lockgate.provider-secret.1";
/// Most characters of a name.
const NAME_MAX: usize = 64;

/// Largest secret, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 * 1024;

/// Name of a secret: 1 to 64 characters of `a-z`, `A-Z`, `0-9`, `_`, `.` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

/// A text that is no [`SecretName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret's name has 1 to {NAME_MAX} characters of a-z, A-Z, 0-9, _ . and -")]
pub struct BadName;

impl SecretName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if (1..=NAME_MAX).contains(&text.len()) && text.chars().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName)
        }
    }
}

impl TryFrom<String> for SecretName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The master keys of a process: the first seals, all open. Never empty; wiped from memory when dropped.
pub struct MasterKeys {
    first: MasterKey,
    others: Vec<MasterKey>,
}

struct MasterKey {
    /// The first 8 bytes of the key's SHA-256, in hex: names the key, and tells nothing of its 256 random bits.
    id: String,
    key: SecretBox<[u8; KEY_BYTES]>,
}

/// Why a text holds no master keys. Never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMasterKeys {
    /// There is not one key in it.
    #[error("it holds no key")]
    Empty,
    /// A key is not what it must be.
    #[error("key {place} of it is not {KEY_BYTES} bytes in base64")]
    Malformed {
        /// Which one, from 1 on.
        place: usize,
    },
    /// A key is there twice.
    #[error("key {place} of it is there already")]
    Repeated {
        /// Which one, from 1 on.
        place: usize,
    },
}

/// A sealed value. Safe to show, to store and to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Id of the master key that opens it.
    pub master_key_id: String,
    /// 12 bytes.
    pub nonce: Vec<u8>,
    /// The encrypted value and its tag of 16 bytes.
    pub bytes: Vec<u8>,
}

/// Why a value was not sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The master key that sealed it is not here.
    #[error(
        "it is sealed under master key {master_key_id}, and the ones given are {given}: add that key to LOCKGATE_MASTER_KEY or the key file"
    )]
    UnknownKey {
        /// Id of the key that is wanted.
        master_key_id: String,
        /// Ids of the keys that are here.
        given: String,
    },
    /// It was changed, or belongs to another name or version.
    #[error("its seal does not open, the stored bytes were changed: set it again")]
    Broken,
    /// The cipher refused to work.
    #[error("it could not be sealed")]
    Unsealable,
}

impl MasterKeys {
    /// Reads keys of 32 bytes in base64, separated by commas or white space; the first seals.
    ///
    /// # Errors
    /// [`BadMasterKeys`].
    pub fn parse(text: &str) -> Result<Self, BadMasterKeys> {
        let mut keys: Vec<MasterKey> = Vec::new();
        let parts = text.split(|c: char| c == ',' || c.is_whitespace());
        for (part, place) in parts.filter(|part| !part.is_empty()).zip(1..) {
            let key = MasterKey::parse(part).ok_or(BadMasterKeys::Malformed { place })?;
            if keys.iter().any(|earlier| earlier.id == key.id) {
                return Err(BadMasterKeys::Repeated { place });
            }
            keys.push(key);
        }
        let mut keys = keys.into_iter();
        Ok(Self {
            first: keys.next().ok_or(BadMasterKeys::Empty)?,
            others: keys.collect(),
        })
    }

    /// A new key from the system's random source, as [`MasterKeys::parse`] reads it.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn generate() -> std::io::Result<SecretString> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        aws_lc_rs::rand::fill(key.as_mut_slice())
            .map_err(|_| std::io::Error::other("the system gave no random bytes"))?;
        Ok(SecretString::from(BASE64.encode(key.as_slice())))
    }

    /// Id of the key that seals: 16 hex digits.
    #[must_use]
    pub fn sealing_id(&self) -> &str {
        &self.first.id
    }

    /// Ids of the keys that only open.
    pub fn other_ids(&self) -> impl Iterator<Item = &str> {
        self.others.iter().map(|key| key.id.as_str())
    }

    /// Seals `value` as this version of this secret, under the first key.
    ///
    /// # Errors
    /// [`SealError::Unsealable`].
    pub fn seal(
        &self,
        name: &SecretName,
        version: i64,
        value: &SecretString,
    ) -> Result<Sealed, SealError> {
        let cipher = self.first.cipher().ok_or(SealError::Unsealable)?;
        let mut bytes = value.expose_secret().as_bytes().to_vec();
        // In place: of the value nothing is left, or it is wiped.
        match cipher.seal_in_place_separate_tag(aad(name, version), &mut bytes) {
            Ok((nonce, tag)) => {
                bytes.extend_from_slice(tag.as_ref());
                Ok(Sealed {
                    master_key_id: self.first.id.clone(),
                    nonce: nonce.as_ref().to_vec(),
                    bytes,
                })
            }
            Err(_) => {
                drop(Zeroizing::new(bytes));
                Err(SealError::Unsealable)
            }
        }
    }

    /// Opens what was sealed as this version of this secret, under any of the keys.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`], [`SealError::Broken`].
    pub fn open(
        &self,
        name: &SecretName,
        version: i64,
        sealed: &Sealed,
    ) -> Result<SecretString, SealError> {
        let key = std::iter::once(&self.first)
            .chain(&self.others)
            .find(|key| key.id == sealed.master_key_id)
            .ok_or_else(|| SealError::UnknownKey {
                master_key_id: sealed.master_key_id.clone(),
                given: self.ids(),
            })?;
        let nonce: [u8; NONCE_LEN] = sealed
            .nonce
            .as_slice()
            .try_into()
            .map_err(|_| SealError::Broken)?;
        let cipher = key.cipher().ok_or(SealError::Broken)?;
        let mut bytes = Zeroizing::new(sealed.bytes.clone());
        let opened = cipher
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                aad(name, version),
                &mut bytes,
            )
            .map_err(|_| SealError::Broken)?;
        let text = std::str::from_utf8(opened).map_err(|_| SealError::Broken)?;
        // Of exactly its length, so that no copy is left behind by a move into the box.
        Ok(SecretString::from(text.to_owned()))
    }

    fn ids(&self) -> String {
        let mut ids = self.first.id.clone();
        for key in &self.others {
            ids.push_str(", ");
            ids.push_str(&key.id);
        }
        ids
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKeys")
            .field("ids", &self.ids())
            .finish_non_exhaustive()
    }
}

impl MasterKey {
    fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(BASE64.decode(text.as_bytes()).ok()?);
        let mut key = SecretBox::new(Box::new([0; KEY_BYTES]));
        if bytes.len() != KEY_BYTES {
            return None;
        }
        secrecy::ExposeSecretMut::expose_secret_mut(&mut key).copy_from_slice(&bytes);
        let digest = Sha256::digest(bytes.as_slice());
        Some(Self {
            id: HEXLOWER.encode(&digest[..8]),
            key,
        })
    }

    /// Of a size that the cipher takes, so always there.
    fn cipher(&self) -> Option<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, self.key.expose_secret()).ok()
    }
}

/// What a seal is bound to. The length keeps name and version apart.
fn aad(name: &SecretName, version: i64) -> Aad<Vec<u8>> {
    let name = name.as_str().as_bytes();
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    Aad::from([DOMAIN, &length.to_be_bytes(), name, &version.to_be_bytes()].concat())
}
