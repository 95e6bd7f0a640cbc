//! Completes a file: exact length, on the medium, verified, with its attributes, and then under its final name.

use super::{FileDestination, Kind, Publication};
use crate::destination::{Finished, Verify, attributes, publish};
use crate::error::{Error, Result};
use crate::source_info::SourceInfo;

impl FileDestination<'_> {
    pub(super) fn complete(self, source: &SourceInfo, verify: Verify<'_>) -> Result<Finished> {
        let Self { job, target, file, writer, kind, cleanup, .. } = self;
        let publication = if let Kind::New(publication) = kind { Some(publication) } else { None };
        let partial = publication.as_ref().and_then(|publication| publication.partial.as_deref());
        let fail = |e| Error::io("finishing", &target.name, e);
        let set_attributes = || match &publication {
            Some(publication) => attributes::apply(job, &target, &file, source, publication.temporary.is_some()),
            None => Ok(Vec::new()),
        };

        let complete = writer.complete().map_err(fail)?;
        let mut notes = Vec::new();
        // A file that --resume may have to keep stays private to its owner until it is verified.
        if partial.is_none() {
            notes = set_attributes()?;
        }
        let synced = complete.finish(job.sync);
        if let (Err(_), Some(partial)) = (&synced, partial) {
            partial.sync_failed();
        }
        let written = synced.map_err(fail)?;
        verify(&file, job.seek)?;
        if partial.is_some() {
            notes = set_attributes()?;
            if job.sync {
                file.sync_all().map_err(fail)?;
            }
        }
        if let Some(Publication { temporary, exclusive, .. }) = &publication {
            let last_step = || partial.map_or(Ok(()), |partial| partial.complete());
            publish::publish(&file, temporary.as_deref(), &target, *exclusive, last_step, cleanup)?;
            if job.sync {
                publish::sync_directory(&target, &file)?;
            }
        }
        Ok(Finished { written, notes })
    }
}
