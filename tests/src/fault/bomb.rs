//! A gzip bomb, written bit by bit: no compressor is needed to say "the same 258 bytes again".

/// Packed size at which the bomb ends, in bytes.
const PACKED_BYTES: usize = 4 * 1024 * 1024;

/// 4 MiB of gzip that unpack to `{"id":"xxxx…`, some 660 MB without an end of the string.
pub(super) fn gzip_bomb() -> Vec<u8> {
    let mut bits = Bits {
        // RFC 1952: magic, deflate, no flags, no time, no hint, unknown system.
        out: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255],
        pending: 0,
        pending_len: 0,
    };
    // RFC 1951, 3.2.3: not the last block, fixed Huffman codes.
    bits.push(0b0, 1);
    bits.push(0b01, 2);
    for &byte in b"{\"id\":\"x" {
        // 3.2.6: literals 0 to 143 are the 8-bit codes from 0x30.
        bits.push_code(0x30 + u32::from(byte), 8);
    }
    while bits.out.len() < PACKED_BYTES {
        // Length 258 is symbol 285, the 8-bit code 0b11000101; distance 1 is the 5-bit code 0.
        bits.push_code(0b1100_0101, 8);
        bits.push_code(0, 5);
    }
    bits.out
}

struct Bits {
    out: Vec<u8>,
    pending: u32,
    pending_len: u32,
}

impl Bits {
    /// Appends the lowest `len` bits, lowest first.
    fn push(&mut self, value: u32, len: u32) {
        self.pending |= value << self.pending_len;
        self.pending_len += len;
        while self.pending_len >= 8 {
            self.out.push(self.pending.to_le_bytes()[0]);
            self.pending >>= 8;
            self.pending_len -= 8;
        }
    }

    /// Appends a Huffman code, highest bit first.
    fn push_code(&mut self, code: u32, len: u32) {
        self.push(code.reverse_bits() >> (32 - len), len);
    }
}
