//! Where an answer's body ends (RFC 9112, 6.3 and 7.1), read from a connection's buffer.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{FIELDS_MAX, HEAD_BYTES, Malformed};

/// A chunk's size and what is said about it stand on one line, which nobody needs to be long; all of a body's together.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Sixteen digits, and room for spaces after them.
const SIZE_LINE_BYTES: usize = 64;

/// How a body's end is told, and how far it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunk),
    /// It ends with its connection.
    Close,
    Ended,
}

/// What comes next of a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// The line before a chunk; so many bytes of such lines were no sizes.
    Size(usize),
    Data(u64, usize),
    /// The end of its line.
    DataEnd(usize),
    /// So many bytes of them have been looked at.
    Trailers(usize),
}

/// What was found in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// Nothing yet.
    More,
}

impl Framing {
    pub(super) fn is_ended(self) -> bool {
        matches!(self, Self::Ended | Self::Length(0))
    }

    /// How many bytes are known to come.
    pub(super) fn length(self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(left),
            Self::Ended => Some(0),
            Self::Chunked(_) | Self::Close => None,
        }
    }

    /// The next piece of the body.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match self {
                Self::Ended | Self::Length(0) => {
                    *self = Self::Ended;
                    return Ok(Piece::End);
                }
                Self::Length(left) => {
                    return Ok(match take(buffer, *left) {
                        Some(data) => {
                            *left -= data.len() as u64;
                            Piece::Data(data)
                        }
                        None => Piece::More,
                    });
                }
                Self::Close => return Ok(take(buffer, u64::MAX).map_or(Piece::More, Piece::Data)),
                Self::Chunked(chunk) => match chunk.next(buffer)? {
                    Step::On => {}
                    Step::Piece(piece) => return Ok(piece),
                    Step::Trailers(trailers) => {
                        *self = Self::Ended;
                        return Ok(trailers.map_or(Piece::End, Piece::Trailers));
                    }
                },
            }
        }
    }
}

enum Step {
    On,
    Piece(Piece),
    Trailers(Option<HeaderMap>),
}

impl Chunk {
    fn next(&mut self, buffer: &mut BytesMut) -> Result<Step, Malformed> {
        match *self {
            Self::Size(mut said) => {
                let Some(end) = buffer.iter().position(|b| *b == b'\n') else {
                    let is_long = buffer.len() + said > EXTENSION_BYTES_MAX + SIZE_LINE_BYTES;
                    return if is_long {
                        Err(Malformed("a chunk's line is too long"))
                    } else {
                        Ok(Step::Piece(Piece::More))
                    };
                };
                let line = buffer[..end].strip_suffix(b"\r").ok_or(Malformed("a chunk's line ends in a bare LF"))?;
                let (size, extension) = size_line(line)?;
                said += extension;
                if said > EXTENSION_BYTES_MAX {
                    return Err(Malformed("chunks have too much said about them"));
                }
                buffer.advance(end + 1);
                *self = if size == 0 { Self::Trailers(0) } else { Self::Data(size, said) };
            }
            Self::Data(left, said) => {
                let Some(data) = take(buffer, left) else { return Ok(Step::Piece(Piece::More)) };
                let left = left - data.len() as u64;
                *self = if left == 0 { Self::DataEnd(said) } else { Self::Data(left, said) };
                return Ok(Step::Piece(Piece::Data(data)));
            }
            Self::DataEnd(said) => {
                if buffer.len() < 2 {
                    return Ok(Step::Piece(Piece::More));
                }
                if !buffer.starts_with(b"\r\n") {
                    return Err(Malformed("a chunk is longer than it says"));
                }
                buffer.advance(2);
                *self = Self::Size(said);
            }
            Self::Trailers(ref mut scanned) => {
                if buffer.starts_with(b"\r\n") {
                    buffer.advance(2);
                    return Ok(Step::Trailers(None));
                }
                if buffer.len() > HEAD_BYTES {
                    return Err(Malformed("trailers are too long"));
                }
                let from = std::mem::replace(scanned, buffer.len()).saturating_sub(3);
                if !buffer[from..].windows(4).any(|end| end == b"\r\n\r\n") {
                    return Ok(Step::Piece(Piece::More));
                }
                return Ok(match trailers(buffer)? {
                    Some(trailers) => Step::Trailers(Some(trailers)),
                    None => Step::Piece(Piece::More),
                });
            }
        }
        Ok(Step::On)
    }
}

/// Up to `most` of what there is; `None` where there is nothing.
fn take(buffer: &mut BytesMut, most: u64) -> Option<Bytes> {
    let count = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
    (count > 0).then(|| buffer.split_to(count).freeze())
}

/// A chunk's size, and how many bytes follow it on its line.
fn size_line(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if !(1..=16).contains(&digits) {
        return Err(Malformed("a chunk has no size"));
    }
    let size = line[..digits].iter().fold(0, |size, digit| {
        let value = char::from(*digit).to_digit(16).unwrap_or_default();
        size << 4 | u64::from(value)
    });
    let rest = &line[digits..];
    let after = &rest[rest.iter().take_while(|b| matches!(b, b' ' | b'\t')).count()..];
    // What is said about a chunk is nobody's business but must not be anything else either.
    let is_extension =
        after.is_empty() || (after[0] == b';' && !after.iter().any(|b| *b != b'\t' && b.is_ascii_control()));
    if is_extension { Ok((size, rest.len())) } else { Err(Malformed("a chunk's size is followed by something else")) }
}

fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let (length, trailers) = match httparse::parse_headers(buffer, &mut fields) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed("trailers can't be read")),
        Ok(httparse::Status::Complete((length, fields))) => {
            let mut trailers = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name =
                    HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed("a trailer has no name"))?;
                let value = HeaderValue::from_bytes(field.value).map_err(|_| Malformed("a trailer has no value"))?;
                trailers.append(name, value);
            }
            (length, trailers)
        }
    };
    buffer.advance(length);
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of `bytes` that come one by one, or all at once: the body, its trailers, what is left over.
    fn read(framing: Framing, bytes: &[u8], step: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Malformed> {
        let (mut framing, mut buffer, mut body, mut found) = (framing, BytesMut::new(), Vec::new(), None);
        let mut coming = bytes.chunks(step);
        loop {
            match framing.next(&mut buffer)? {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::Trailers(trailers) => found = Some(trailers),
                Piece::End => return Ok((body, found, buffer.len() + coming.map(<[u8]>::len).sum::<usize>())),
                Piece::More => buffer.extend_from_slice(coming.next().ok_or(Malformed("no more"))?),
            }
        }
    }

    fn chunked(bytes: &[u8]) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Malformed> {
        let whole = read(Framing::Chunked(Chunk::Size(0)), bytes, usize::MAX);
        for step in [1, 2, 3] {
            assert_eq!(read(Framing::Chunked(Chunk::Size(0)), bytes, step), whole, "{step} at a time");
        }
        whole
    }

    #[test]
    fn a_body_ends_where_its_length_says() {
        assert_eq!(read(Framing::Length(5), b"hello, more", 3), Ok((b"hello".to_vec(), None, 6)));
        assert_eq!(read(Framing::Length(0), b"", 1), Ok((Vec::new(), None, 0)));
        assert_eq!(read(Framing::Length(5), b"hell", 9), Err(Malformed("no more")));
    }

    #[test]
    fn chunks_are_joined_and_what_follows_them_is_left() {
        assert_eq!(chunked(b"5\r\nhello\r\n0\r\n\r\nHTTP"), Ok((b"hello".to_vec(), None, 4)));
        assert_eq!(
            chunked(b"3 ;a=\"b\"\r\nabc\r\n0A  \r\n0123456789\r\n000\r\n\r\n"),
            Ok((b"abc0123456789".to_vec(), None, 0))
        );
    }

    #[test]
    fn trailers_follow_the_last_chunk() {
        let (body, trailers, left) = chunked(b"1\r\nx\r\n0\r\nGrpc-Status: 0\r\nx-sum: a b\r\n\r\nrest").unwrap();
        let trailers = trailers.unwrap();
        assert_eq!((body, left, trailers.len()), (b"x".to_vec(), 4, 2));
        assert!(trailers["grpc-status"] == "0" && trailers["x-sum"] == "a b");
    }

    #[test]
    fn chunks_that_others_could_read_differently_are_refused() {
        for bad in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\r\r\nhello\r\n",
            b"5\x0c\r\nhello\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"\r\nhello",
            b"x\r\n",
            b"-1\r\n",
            b"0x5\r\nhello\r\n",
            b"5 5\r\nhello\r\n",
            b"5;a\rb\r\nhello\r\n",
            b"10000000000000000\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\na b: c\r\n\r\n",
        ] {
            let read = chunked(bad);
            assert!(matches!(read, Err(Malformed(why)) if why != "no more"), "{}: {read:?}", bad.escape_ascii());
        }
    }

    #[test]
    fn what_is_said_about_chunks_has_an_end() {
        let line = [b"1;", "x".repeat(1000).as_bytes(), b"\r\n!\r\n"].concat();
        let many = |count: usize| [line.repeat(count), b"0\r\n\r\n".to_vec()].concat();
        assert!(read(Framing::Chunked(Chunk::Size(0)), &many(16), 4096).is_ok());
        assert!(read(Framing::Chunked(Chunk::Size(0)), &many(17), 4096).is_err());
        let endless = [&b"1;"[..], &b"x".repeat(1 << 20)].concat();
        assert!(read(Framing::Chunked(Chunk::Size(0)), &endless, 4096).is_err());
    }
}
