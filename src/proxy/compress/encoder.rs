//! One body's compression, piece by piece. The settings bound what each answer may cost: the levels are those of
//! streams made on the fly, the windows are far below what the formats allow.

use std::fmt;
use std::io::{self, Write};

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::zstd_safe::CParameter;

use crate::model::Coding;

/// zstd: a window of 128 KiB, and tables to match.
const ZSTD_LEVEL: i32 = 3;
const ZSTD_TABLES: [CParameter; 3] = [CParameter::WindowLog(17), CParameter::HashLog(16), CParameter::ChainLog(15)];
/// brotli: a window of 64 KiB; one of 256 KiB doubles the memory and saves a twentieth of the bytes.
const BROTLI_QUALITY: u32 = 4;
const BROTLI_WINDOW_LOG: u32 = 16;
const BROTLI_BUFFER_BYTES: usize = 16 * 1024;
/// gzip: its window is always 32 KiB.
const GZIP_LEVEL: u32 = 5;

pub(super) enum Encoder {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    /// Boxed: larger than the others by kilobytes.
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Encoder {
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                for table in ZSTD_TABLES {
                    encoder.set_parameter(table)?;
                }
                Self::Zstd(encoder)
            }
            Coding::Brotli => {
                let encoder = CompressorWriter::new(Vec::new(), BROTLI_BUFFER_BYTES, BROTLI_QUALITY, BROTLI_WINDOW_LOG);
                Self::Brotli(Box::new(encoder))
            }
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL))),
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.write_all(bytes),
            Self::Brotli(encoder) => encoder.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
        }
    }

    /// Makes everything written so far decodable from what has come out.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.flush(),
            Self::Brotli(encoder) => encoder.flush(),
            Self::Gzip(encoder) => encoder.flush(),
        }
    }

    /// What has come out since last asked.
    pub(super) fn output(&mut self) -> Bytes {
        let output = match self {
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
        };
        std::mem::take(output).into()
    }

    /// The rest of the output.
    pub(super) fn finish(self) -> io::Result<Bytes> {
        let output = match self {
            Self::Zstd(encoder) => encoder.finish()?,
            Self::Brotli(encoder) => encoder.into_inner(),
            Self::Gzip(encoder) => encoder.finish()?,
        };
        Ok(output.into())
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zstd(_) => "Zstd",
            Self::Brotli(_) => "Brotli",
            Self::Gzip(_) => "Gzip",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match coding {
            Coding::Zstd => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out).map(drop),
            Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out).map(drop),
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).map(drop),
        }
        .unwrap();
        out
    }

    #[test]
    fn what_was_written_comes_back_whole_however_it_was_cut() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|n| (n % 977).to_string().into_bytes()).collect();
        for coding in ALL {
            for piece in [1009, 64 * 1024, text.len()] {
                let mut encoder = Encoder::new(coding).unwrap();
                let mut out = Vec::new();
                for (index, part) in text.chunks(piece).enumerate() {
                    encoder.write(part).unwrap();
                    if index % 3 == 0 {
                        encoder.flush().unwrap();
                    }
                    out.extend_from_slice(&encoder.output());
                }
                out.extend_from_slice(&encoder.finish().unwrap());
                assert_eq!(decoded(coding, &out), text, "{coding:?} {piece}");
                assert!(out.len() < text.len() / 4, "{coding:?} {piece}: {}", out.len());
            }
        }
    }
}
