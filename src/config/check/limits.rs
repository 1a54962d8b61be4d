//! How much clients may take.

use super::{Check, Fault, unless_reported};
use crate::config::file::{LimitsFile, SizeText};
use crate::config::key_path::KeyPath;
use crate::config::types::ClientLimits;
use crate::model::format_bytes;

/// A browser's head with its cookies needs a few KiB; an endless one is what the limit is for.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = (1 << 10)..=(1 << 20);
/// HTTP/2 begins with windows of 64 KiB - 1 B and allows 2 GiB - 1 B (RFC 9113, 6.9).
const WINDOW_BYTES: std::ops::RangeInclusive<u64> = (16 << 10)..=(1 << 30);

impl Check<'_, '_> {
    pub(super) fn limits(&mut self, at: &KeyPath, file: &LimitsFile) -> Option<ClientLimits> {
        let header_bytes = self.size_within(&at.key("header_bytes"), &file.header_bytes, HEADER_BYTES);
        let stream_window = self.size_within(&at.key("stream_window"), &file.stream_window, WINDOW_BYTES);
        let connection_window = self.size_within(&at.key("connection_window"), &file.connection_window, WINDOW_BYTES);
        let uri_bytes = self.positive_size(&at.key("uri_bytes"), &file.uri_bytes);
        let body_pace = self.positive_size(&at.key("body_pace"), &file.body_pace);
        let memory = file.memory.as_ref().map(|size| self.positive_size(&at.key("memory"), size));
        let mirror_memory = self.positive_size(&at.key("mirror_memory"), &file.mirror_memory);
        let (stream_window, connection_window) = (stream_window?, connection_window?);
        if connection_window < stream_window {
            let message = "the window of a connection is smaller than that of one of its requests";
            self.report.problem(&at.key("connection_window"), message, "make it at least as large as stream_window");
            return None;
        }
        Some(ClientLimits {
            connections: file.connections,
            connections_per_client: file.connections_per_client,
            requests_per_connection: file.requests_per_connection,
            header_bytes: header_bytes?,
            headers: file.headers,
            streams: file.streams,
            stream_window,
            connection_window,
            uri_bytes: usize::try_from(uri_bytes?).unwrap_or(usize::MAX),
            body_pace: body_pace?,
            memory: unless_reported(memory)?,
            mirror_memory: mirror_memory?,
        })
    }

    fn size_within(&mut self, at: &KeyPath, text: &SizeText, range: std::ops::RangeInclusive<u64>) -> Option<u32> {
        let size = self.positive_size(at, text)?;
        let checked = u32::try_from(size).ok().filter(|_| range.contains(&size)).ok_or_else(|| {
            let (least, most) = (format_bytes(*range.start()), format_bytes(*range.end()));
            Fault::new(format!("{:?} is out of bounds", text.0), format!("give it {least} to {most}"))
        });
        self.accept(at, checked)
    }
}
