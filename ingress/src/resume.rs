//! The resume token: the position of one frame in the log, authenticated.
//!
//! Every frame of a stream carries one in its `id:` line. A client that comes back with the
//! last one it saw can be served by any replica from exactly the next chunk, because the
//! token says where on the log the frame came from (the route for that is still to come). It is not secret, but it cannot be
//! made up: it ends in a truncated HMAC under a secret that all replicas share.

use bytes::{BufMut, BytesMut};
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use schemas::id::RequestId;
use sha2::Sha256;

/// Layout of the token; raised when it changes.
const VERSION: u8 = 1;
/// `req_` is left out of the token, it says nothing.
const ID_PREFIX: &str = "req_";
const ID_BYTES: usize = 31;
/// Version, request id, run, partition, offset, sequence.
const POINT_BYTES: usize = 1 + ID_BYTES + 4 + 4 + 8 + 8;
const MAC_BYTES: usize = 16;
const TOKEN_BYTES: usize = POINT_BYTES + MAC_BYTES;
/// Length of a token as text.
pub const TOKEN_CHARACTERS: usize = (TOKEN_BYTES * 4).div_ceil(3);

/// What a client has seen of a stream: up to and with this chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumePoint {
    /// The request.
    pub id: RequestId,
    /// Number of the run that the chunk belongs to.
    pub run: i32,
    /// Partition of the reply topic that holds the chunk.
    pub partition: i32,
    /// Offset of the record that holds the chunk.
    pub offset: i64,
    /// Number of the chunk within the run, from 0.
    pub sequence: i64,
}

/// The text is not a token of ours: damaged, made up, or of another secret or version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a resume token")]
pub struct InvalidToken;

/// Makes and checks resume tokens under one secret.
#[derive(Clone)]
pub struct ResumeTokens {
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for ResumeTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumeTokens")
    }
}

impl ResumeTokens {
    /// Tokens under `secret`; replicas that shall understand each other share it.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let keyed = Hmac::new_from_slice(secret).expect("HMAC takes keys of any length");
        Self { keyed }
    }

    /// Appends the token of `point` to `out`: [`TOKEN_CHARACTERS`] characters of base64url.
    pub fn seal_into(&self, point: &ResumePoint, out: &mut BytesMut) {
        let token = self.sealed(&write(point));
        let mut text = [0; TOKEN_CHARACTERS];
        BASE64URL_NOPAD.encode_mut(&token, &mut text);
        out.put_slice(&text);
    }

    /// The point that `token` names, once its authenticity is checked in constant time.
    ///
    /// # Errors
    /// [`InvalidToken`]; it does not say what is wrong, so that nobody learns how to forge one.
    pub fn open(&self, token: &str) -> Result<ResumePoint, InvalidToken> {
        if token.len() != TOKEN_CHARACTERS {
            return Err(InvalidToken);
        }
        let mut bytes = [0; TOKEN_BYTES];
        BASE64URL_NOPAD
            .decode_mut(token.as_bytes(), &mut bytes)
            .map_err(|_| InvalidToken)?;
        let (point, mac) = bytes.split_at(POINT_BYTES);
        let mut keyed = self.keyed.clone();
        keyed.update(point);
        keyed.verify_truncated_left(mac).map_err(|_| InvalidToken)?;
        read(point).ok_or(InvalidToken)
    }

    fn sealed(&self, point: &[u8; POINT_BYTES]) -> [u8; TOKEN_BYTES] {
        let mut keyed = self.keyed.clone();
        keyed.update(point);
        let mac = keyed.finalize().into_bytes();
        let mut token = [0; TOKEN_BYTES];
        token[..POINT_BYTES].copy_from_slice(point);
        token[POINT_BYTES..].copy_from_slice(&mac[..MAC_BYTES]);
        token
    }
}

fn write(point: &ResumePoint) -> [u8; POINT_BYTES] {
    let mut bytes = [0; POINT_BYTES];
    let mut rest = &mut bytes[..];
    rest.put_u8(VERSION);
    let id = point.id.to_string();
    rest.put_slice(&id.as_bytes()[ID_PREFIX.len()..]);
    rest.put_i32(point.run);
    rest.put_i32(point.partition);
    rest.put_i64(point.offset);
    rest.put_i64(point.sequence);
    bytes
}

fn read(mut point: &[u8]) -> Option<ResumePoint> {
    use bytes::Buf;

    if point.len() != POINT_BYTES || point.get_u8() != VERSION {
        return None;
    }
    let (id, mut numbers) = point.split_at(ID_BYTES);
    let id = format!("{ID_PREFIX}{}", std::str::from_utf8(id).ok()?);
    Some(ResumePoint {
        id: id.parse().ok()?,
        run: numbers.get_i32(),
        partition: numbers.get_i32(),
        offset: numbers.get_i64(),
        sequence: numbers.get_i64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::topic::{ReplyPlace, ReplyTopic};

    fn point() -> ResumePoint {
        ResumePoint {
            id: RequestId::new(ReplyPlace {
                topic: ReplyTopic::Responses,
                partition: 7,
            }),
            run: 2,
            partition: 7,
            offset: 1 << 40,
            sequence: 3,
        }
    }

    fn sealed(tokens: &ResumeTokens, point: &ResumePoint) -> String {
        let mut out = BytesMut::new();
        tokens.seal_into(point, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_token_opens_to_the_point_it_was_made_of() {
        let tokens = ResumeTokens::new(b"secret");
        let token = sealed(&tokens, &point());
        assert_eq!(token.len(), TOKEN_CHARACTERS);
        let again = point();
        assert_eq!(tokens.open(&sealed(&tokens, &again)), Ok(again));
    }

    #[test]
    fn a_changed_character_anywhere_is_refused() {
        let tokens = ResumeTokens::new(b"secret");
        let token = sealed(&tokens, &point());
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(tokens.open(&changed), Err(InvalidToken), "character {at}");
        }
    }

    #[test]
    fn another_secret_and_other_text_are_refused() {
        let token = sealed(&ResumeTokens::new(b"secret"), &point());
        assert!(ResumeTokens::new(b"other").open(&token).is_err());
        let tokens = ResumeTokens::new(b"secret");
        for text in [
            "",
            "x",
            "ü".repeat(TOKEN_CHARACTERS / 2).as_str(),
            &token[1..],
        ] {
            assert_eq!(tokens.open(text), Err(InvalidToken));
        }
    }
}
