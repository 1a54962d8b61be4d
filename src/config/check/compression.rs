//! Which answers are compressed, and how.

use super::{Check, Fault};
use crate::config::file::{AlgorithmFile, CompressionFile};
use crate::config::key_path::KeyPath;
use crate::config::types::CompressionConfig;
use crate::model::{Coding, ContentTypes};

impl Check<'_, '_> {
    pub(super) fn compression(&mut self, at: &KeyPath, file: &CompressionFile) -> Option<CompressionConfig> {
        let mut codings = Vec::new();
        for (index, algorithm) in file.algorithms.iter().enumerate() {
            let coding = match algorithm {
                AlgorithmFile::Zstd => Coding::Zstd,
                AlgorithmFile::Br => Coding::Brotli,
                AlgorithmFile::Gzip => Coding::Gzip,
            };
            let at = at.key("algorithms").index(index);
            if !codings.contains(&coding) {
                codings.push(coding);
            } else if !self.report.is_broken(&at) {
                self.report.problem(&at, format!("{} stands there twice", coding.name()), "keep the first");
            }
        }
        let min_bytes = self.size(&at.key("min_bytes"), &file.min_bytes);
        if min_bytes == Some(0) {
            let hint = "write \"1B\" to compress whatever has a body";
            self.report.problem(&at.key("min_bytes"), "zero is no limit", hint);
        }
        let types = match &file.types {
            None => Some(ContentTypes::compressible()),
            Some(texts) => {
                let at = at.key("types");
                let types = texts.iter().enumerate().map(|(index, text)| {
                    let hint = "write \"text/html\", \"text/*\" for all of a kind, or \"+json\" for a suffix";
                    let parsed = text.parse().map_err(|()| Fault::new(format!("{text:?} is no content type"), hint));
                    self.accept(&at.index(index), parsed)
                });
                types.collect::<Vec<_>>().into_iter().collect::<Option<_>>().map(ContentTypes::new)
            }
        };
        Some(CompressionConfig { codings, min_bytes: min_bytes?, types: types?, at_once: file.at_once })
    }
}
