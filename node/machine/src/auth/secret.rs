//! Tokens as they are shown, and what is stored of them.

use sha2::{Digest, Sha256};

/// Secret of a token, in bytes.
pub const SECRET_BYTES: usize = 32;

/// `tally_ID_SECRET`, the secret in hexadecimal digits.
pub fn format_token(id: u64, secret: &[u8; SECRET_BYTES]) -> String {
    let mut token = format!("tally_{id}_");
    secret.iter().for_each(|byte| token.push_str(&format!("{byte:02x}")));
    token
}

/// Id and secret of a token.
pub fn parse_token(token: &str) -> Option<(u64, [u8; SECRET_BYTES])> {
    let (id, digits) = token.strip_prefix("tally_")?.split_once('_')?;
    if digits.len() != 2 * SECRET_BYTES || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut secret = [0; SECRET_BYTES];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some((id.parse().ok()?, secret))
}

/// What is stored of a secret. It has 256 random bits, so there is nothing that a slow hash would protect.
pub fn hash_secret(secret: &[u8; SECRET_BYTES]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back() {
        let secret: [u8; SECRET_BYTES] = std::array::from_fn(|at| at as u8 * 7);
        let token = format_token(12, &secret);
        assert_eq!(parse_token(&token), Some((12, secret)));
        let short = &token[..token.len() - 1];
        let wide = token.replace("00", "é");
        for bad in ["", "tally_", "tally_1_", "x", short, &format!("{token}0"), &wide, "tally_x_00"]
        {
            assert_eq!(parse_token(bad), None, "{bad}");
        }
    }
}
