//! The file: its tables, and every statement that touches them. Blocking; the journal's thread calls it.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::event::{Entry, Event, Lasting, PastDrains, RolloutMemory, ShadowMemory, TrialMemory};
use crate::model::{
    BackendName, Deployment, Drain, GuardMode, LiveMirror, LiveWeights, OpenRoll, Percent, ServiceName, Weight,
};

/// Version of the tables, kept in the file. A file with a higher one was written by a newer tidegate.
const SCHEMA_VERSION: i64 = 4;
/// Marks a SQLite file as ours ("tdgt").
const APPLICATION_ID: i64 = 0x7464_6774;
/// Events that are kept; the oldest go first.
const EVENTS_MAX: u64 = 100_000;
/// Rollouts that are kept of each service; the oldest go first.
const ROLLOUTS_MAX: u64 = 50;
/// How often the oldest are looked for, in events.
const PRUNE_EVERY: u64 = 1_000;

const TABLES: &str = "
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    by TEXT NOT NULL,
    kind TEXT NOT NULL,
    service TEXT,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX events_of_service ON events (service, id);
CREATE TABLE overrides (
    service TEXT NOT NULL,
    position INTEGER NOT NULL,
    backend TEXT NOT NULL,
    weight REAL NOT NULL,
    replaced REAL NOT NULL,
    PRIMARY KEY (service, position)
) STRICT, WITHOUT ROWID;
";

/// What version 2 has besides.
const TABLES_2: &str = "
CREATE TABLE drains (
    service TEXT NOT NULL,
    backend TEXT NOT NULL,
    revision TEXT NOT NULL,
    by TEXT,
    at_ms INTEGER NOT NULL,
    reason TEXT NOT NULL,
    times INTEGER NOT NULL,
    probation REAL,
    PRIMARY KEY (service, backend)
) STRICT, WITHOUT ROWID;
CREATE TABLE trials (
    service TEXT NOT NULL,
    backend TEXT NOT NULL,
    revision TEXT NOT NULL,
    server INTEGER NOT NULL,
    slow INTEGER NOT NULL,
    client INTEGER NOT NULL,
    abandoned INTEGER NOT NULL,
    PRIMARY KEY (service, backend)
) STRICT, WITHOUT ROWID;
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What version 3 has besides. Of each backend, the revision that was drained last.
const TABLES_3: &str = "
CREATE TABLE past_drains (
    service TEXT NOT NULL,
    backend TEXT NOT NULL,
    revision TEXT NOT NULL,
    times INTEGER NOT NULL,
    PRIMARY KEY (service, backend)
) STRICT, WITHOUT ROWID;
INSERT INTO past_drains SELECT service, backend, revision, times FROM drains WHERE times > 0;
";

/// What version 4 has besides.
const TABLES_4: &str = "
CREATE TABLE deployments (
    service TEXT PRIMARY KEY,
    deployment TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE rollouts (
    service TEXT NOT NULL,
    id INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (service, id)
) STRICT, WITHOUT ROWID;
";

/// Why a journal can't be used. The file is as it was.
#[derive(Debug)]
pub enum OpenError {
    /// Written by a newer tidegate.
    Newer { path: PathBuf, version: i64 },
    /// Not a journal of ours.
    Foreign { path: PathBuf },
    /// Damaged.
    Corrupt { path: PathBuf, reason: String },
    /// The disk or the system refuses.
    Unusable { path: PathBuf, reason: String },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer { path, version } => write!(
                f,
                "{} was written by a newer tidegate (format {version}, this one knows {SCHEMA_VERSION})\n  \
                 hint: run that version, or move the file away to begin a new history",
                path.display()
            ),
            Self::Foreign { path } => write!(
                f,
                "{} is a database of another program\n  hint: give tidegate a state_dir of its own",
                path.display()
            ),
            Self::Corrupt { path, reason } => write!(
                f,
                "{} is damaged: {reason}\n  hint: restore it from a backup, or move it away to begin a new history",
                path.display()
            ),
            Self::Unusable { path, reason } => write!(
                f,
                "{} can't be used: {reason}\n  hint: is the disk full or read-only, or the file someone else's?",
                path.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// Which events are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Only events after this id, oldest first.
    pub after: Option<u64>,
    /// Only events before this id.
    pub before: Option<u64>,
    pub service: Option<String>,
    /// Only these; empty: all.
    pub kinds: Vec<String>,
    /// Only what happened then or later.
    pub since: Option<SystemTime>,
    pub limit: usize,
}

/// Events in the order in which they happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub events: Vec<Event>,
    /// There are more in the direction that was asked for.
    pub more: bool,
}

/// All that must hold after a restart.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    pub weights: Vec<LiveWeights>,
    pub drains: Vec<Drain>,
    pub trials: Vec<TrialMemory>,
    pub past_drains: Vec<PastDrains>,
    /// What the guard may do, whatever the file says.
    pub guard: Option<GuardMode>,
    pub mirrors: Vec<LiveMirror>,
    pub shadows: Vec<ShadowMemory>,
    pub deployments: Vec<Deployment>,
    /// By service and id.
    pub rollouts: Vec<RolloutMemory>,
    /// Under way.
    pub rolls: Vec<OpenRoll>,
    /// How far each sink has come: the last event that it is done with, by its name.
    pub cursors: HashMap<String, u64>,
}

/// An open journal file.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
}

impl Database {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it is not ours to use; it is not touched then.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let fail = |error: &rusqlite::Error| unusable(path, error);
        let connection = Connection::open(path).map_err(|e| fail(&e))?;
        connection.busy_timeout(Duration::from_secs(1)).map_err(|e| fail(&e))?;
        let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (application, version) = (pragma("application_id"), pragma("user_version"));
        let (application, version) = (application.map_err(|e| fail(&e))?, version.map_err(|e| fail(&e))?);
        let is_new = application == 0 && version == 0 && is_empty(&connection).map_err(|e| fail(&e))?;
        if !is_new {
            if application != APPLICATION_ID {
                return Err(OpenError::Foreign { path: path.to_owned() });
            }
            if version > SCHEMA_VERSION {
                return Err(OpenError::Newer { path: path.to_owned(), version });
            }
            check(&connection, path)?;
        }
        let mut database = Self { connection };
        database.prepare(version).map_err(|e| fail(&e))?;
        Ok(database)
    }

    /// `version`: of the tables that are there; 0 when there are none.
    fn prepare(&mut self, version: i64) -> rusqlite::Result<()> {
        // A commit is on the disk before it is acknowledged.
        self.connection.pragma_update(None, "journal_mode", "WAL")?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        if version < SCHEMA_VERSION {
            let transaction = self.connection.transaction()?;
            if version < 1 {
                transaction.execute_batch(TABLES)?;
            }
            if version < 2 {
                transaction.execute_batch(TABLES_2)?;
            }
            if version < 3 {
                transaction.execute_batch(TABLES_3)?;
            }
            transaction.execute_batch(TABLES_4)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// Writes an entry, whole or not at all; returns the event's id.
    pub(super) fn write(&mut self, entry: &Entry) -> rusqlite::Result<u64> {
        let transaction = self.connection.transaction()?;
        let id = insert(&transaction, entry)?;
        for change in &entry.changes {
            make(&transaction, change)?;
        }
        if id.is_multiple_of(PRUNE_EVERY) {
            transaction.execute("DELETE FROM events WHERE id <= ?1", [to_sql(id.saturating_sub(EVENTS_MAX))])?;
        }
        transaction.commit()?;
        Ok(id)
    }

    /// All that must hold after a restart.
    pub(super) fn kept(&self) -> rusqlite::Result<Kept> {
        Ok(Kept {
            weights: self.overrides()?,
            drains: self.drains()?,
            trials: self.trials()?,
            past_drains: self.past_drains()?,
            guard: self.guard()?,
            mirrors: self.mirrors()?,
            shadows: self.shadows()?,
            deployments: self.deployments()?,
            rollouts: self.rollouts()?,
            rolls: self.rolls()?,
            cursors: self.cursors()?,
        })
    }

    fn deployments(&self) -> rusqlite::Result<Vec<Deployment>> {
        let mut statement = self.connection.prepare("SELECT deployment FROM deployments ORDER BY service")?;
        let rows = statement.query_map([], |row| {
            let text: String = row.get(0)?;
            serde_json::from_str(&text).map_err(invalid)
        })?;
        rows.collect()
    }

    fn rollouts(&self) -> rusqlite::Result<Vec<RolloutMemory>> {
        let mut statement = self.connection.prepare("SELECT service, id, record FROM rollouts ORDER BY service, id")?;
        let rows = statement.query_map([], |row| {
            let record: String = row.get(2)?;
            Ok(RolloutMemory {
                service: row.get::<_, String>(0)?.parse().map_err(invalid)?,
                id: from_sql(row.get(1)?),
                record: serde_json::from_str(&record).map_err(invalid)?,
            })
        })?;
        rows.collect()
    }

    fn drains(&self) -> rusqlite::Result<Vec<Drain>> {
        let sql = "SELECT service, backend, revision, by, at_ms, reason, times, probation FROM drains";
        let mut statement = self.connection.prepare(sql)?;
        let drains = statement.query_map([], |row| {
            Ok(Drain {
                service: row.get::<_, String>(0)?.parse().map_err(invalid)?,
                backend: row.get::<_, String>(1)?.parse().map_err(invalid)?,
                revision: row.get(2)?,
                by: row.get(3)?,
                at: UNIX_EPOCH + Duration::from_millis(from_sql(row.get(4)?)),
                reason: row.get(5)?,
                times: row.get(6)?,
                probation: row.get(7)?,
                until: None,
            })
        })?;
        drains.collect()
    }

    fn trials(&self) -> rusqlite::Result<Vec<TrialMemory>> {
        let sql = "SELECT service, backend, revision, server, slow, client, abandoned FROM trials";
        let mut statement = self.connection.prepare(sql)?;
        let trials = statement.query_map([], |row| {
            let count = |index: usize| row.get(index).map(from_sql);
            Ok(TrialMemory {
                service: row.get::<_, String>(0)?.parse().map_err(invalid)?,
                backend: row.get::<_, String>(1)?.parse().map_err(invalid)?,
                revision: row.get(2)?,
                failures: [count(3)?, count(4)?, count(5)?, count(6)?],
            })
        })?;
        trials.collect()
    }

    fn past_drains(&self) -> rusqlite::Result<Vec<PastDrains>> {
        let mut statement = self.connection.prepare("SELECT service, backend, revision, times FROM past_drains")?;
        let past = statement.query_map([], |row| {
            Ok(PastDrains {
                service: row.get::<_, String>(0)?.parse().map_err(invalid)?,
                backend: row.get::<_, String>(1)?.parse().map_err(invalid)?,
                revision: row.get(2)?,
                times: row.get(3)?,
            })
        })?;
        past.collect()
    }

    fn guard(&self) -> rusqlite::Result<Option<GuardMode>> {
        let sql = "SELECT value FROM settings WHERE name = 'guard'";
        let said = self.connection.query_row(sql, [], |row| row.get::<_, String>(0)).optional()?;
        said.map(|said| serde_json::from_value(said.into()).map_err(invalid)).transpose()
    }

    /// Every share of a mirror that was set live.
    fn mirrors(&self) -> rusqlite::Result<Vec<LiveMirror>> {
        let mut statement = self.connection.prepare("SELECT name, value FROM settings WHERE name LIKE 'mirror %'")?;
        let found = statement.query_map([], |row| {
            let (name, value) = (row.get::<_, String>(0)?, row.get::<_, String>(1)?);
            let [percent, replaced] = serde_json::from_str::<[f64; 2]>(&value).map_err(invalid)?;
            let of = name.strip_prefix(MIRROR_SETTING).and_then(|of| of.split_once('/')).unwrap_or_default();
            Ok(LiveMirror {
                service: of.0.parse().map_err(invalid)?,
                backend: of.1.parse().map_err(invalid)?,
                percent: Percent::new(percent).map_err(invalid)?,
                replaced: Percent::new(replaced).map_err(invalid)?,
            })
        })?;
        found.collect()
    }

    fn cursors(&self) -> rusqlite::Result<HashMap<String, u64>> {
        let mut statement = self.connection.prepare("SELECT name, value FROM settings WHERE name LIKE 'cursor %'")?;
        let rows = statement.query_map([], |row| {
            let (name, value) = (row.get::<_, String>(0)?, row.get::<_, String>(1)?);
            let sink = name.strip_prefix(CURSOR_SETTING).unwrap_or_default().to_owned();
            Ok((sink, value.parse().map_err(invalid)?))
        })?;
        rows.collect()
    }

    /// Remembers how far a sink has come; `None`: forgets it.
    pub(super) fn set_cursor(&mut self, sink: &str, cursor: Option<u64>) -> rusqlite::Result<()> {
        let name = format!("{CURSOR_SETTING}{sink}");
        match cursor {
            Some(cursor) => {
                let sql = "INSERT OR REPLACE INTO settings VALUES (?1, ?2)";
                self.connection.execute(sql, [name, cursor.to_string()])?
            }
            None => self.connection.execute("DELETE FROM settings WHERE name = ?1", [name])?,
        };
        Ok(())
    }

    fn rolls(&self) -> rusqlite::Result<Vec<OpenRoll>> {
        let mut statement = self.connection.prepare("SELECT value FROM settings WHERE name LIKE 'roll %'")?;
        let rows = statement.query_map([], |row| {
            let text: String = row.get(0)?;
            serde_json::from_str(&text).map_err(invalid)
        })?;
        rows.collect()
    }

    /// What comparing mirrors has come to. What can't be read of it is left out: it can be had again.
    fn shadows(&self) -> rusqlite::Result<Vec<ShadowMemory>> {
        let mut statement = self.connection.prepare("SELECT name, value FROM settings WHERE name LIKE 'shadow %'")?;
        let found = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        let read = |(name, value): (String, String)| {
            let (service, backend) = name.strip_prefix(SHADOW_SETTING)?.split_once('/')?;
            let (service, backend) = (service.parse().ok()?, backend.parse().ok()?);
            Some(ShadowMemory { service, backend, memory: serde_json::from_str(&value).ok()? })
        };
        Ok(found.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().filter_map(read).collect())
    }

    /// Remembers comparisons in place of all that were remembered.
    pub(super) fn remember_shadows(&mut self, shadows: &[ShadowMemory]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM settings WHERE name LIKE 'shadow %'", [])?;
        for shadow in shadows {
            let name = format!("{SHADOW_SETTING}{}/{}", shadow.service, shadow.backend);
            transaction
                .execute("INSERT OR REPLACE INTO settings VALUES (?1, ?2)", params![name, shadow.memory.to_string()])?;
        }
        transaction.commit()
    }

    /// Remembers trials in place of all that were remembered.
    pub(super) fn remember(&mut self, trials: &[TrialMemory]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM trials", [])?;
        for trial in trials {
            let [server, slow, client, abandoned] = trial.failures.map(to_sql);
            let (service, backend) = (trial.service.as_str(), trial.backend.as_str());
            transaction.execute(
                "INSERT INTO trials VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![service, backend, trial.revision, server, slow, client, abandoned],
            )?;
        }
        transaction.commit()
    }

    /// Every override that holds.
    fn overrides(&self) -> rusqlite::Result<Vec<LiveWeights>> {
        let mut statement = self
            .connection
            .prepare("SELECT service, backend, weight, replaced FROM overrides ORDER BY service, position")?;
        let mut rows = statement.query([])?;
        let mut found: Vec<LiveWeights> = Vec::new();
        while let Some(row) = rows.next()? {
            let parsed = |index: usize| row.get::<_, String>(index);
            let weight = |index: usize| Weight::new(row.get(index)?).map_err(invalid);
            let service = parsed(0)?.parse().map_err(invalid)?;
            let backend: BackendName = parsed(1)?.parse().map_err(invalid)?;
            let (weight, replaced) = ((backend.clone(), weight(2)?), (backend, weight(3)?));
            match found.last_mut().filter(|last| last.service == service) {
                Some(last) => {
                    last.weights.push(weight);
                    last.replaced.push(replaced);
                }
                None => found.push(LiveWeights { service, weights: vec![weight], replaced: vec![replaced] }),
            }
        }
        Ok(found)
    }

    /// The id of the latest event ever written; 0 before the first.
    pub(super) fn latest(&self) -> rusqlite::Result<u64> {
        let latest = self
            .connection
            .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'events'", [], |row| row.get::<_, i64>(0));
        Ok(latest.optional()?.map_or(0, from_sql))
    }

    /// A page of events.
    pub(super) fn read(&self, query: &Query) -> rusqlite::Result<Page> {
        let forward = query.after.is_some();
        let order = if forward { "ASC" } else { "DESC" };
        let mut statement = self.connection.prepare(&format!(
            "SELECT id, at_ms, by, kind, service, detail FROM events \
             WHERE id > ?1 AND id < ?2 AND (?3 IS NULL OR service = ?3) AND at_ms >= ?5 \
             AND (?6 IS NULL OR kind IN (SELECT value FROM json_each(?6))) ORDER BY id {order} LIMIT ?4"
        ))?;
        let kinds = (!query.kinds.is_empty()).then(|| serde_json::json!(query.kinds).to_string());
        let since = query.since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        let since_ms = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        let after = to_sql(query.after.unwrap_or(0));
        let before = query.before.map_or(i64::MAX, to_sql);
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX - 1);
        let rows = statement.query_map(params![after, before, query.service, limit + 1, since_ms, kinds], |row| {
            let detail: String = row.get(5)?;
            Ok(Event {
                id: from_sql(row.get(0)?),
                at: told(row.get(1)?),
                by: row.get(2)?,
                kind: row.get(3)?,
                service: row.get(4)?,
                detail: serde_json::from_str(&detail).map_err(invalid)?,
            })
        })?;
        let mut events = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let more = events.len() > query.limit;
        events.truncate(query.limit);
        if !forward {
            events.reverse();
        }
        Ok(Page { events, more })
    }
}

/// What a file says about itself: a damaged one must be found before it is trusted.
fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let said = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match said {
        Ok(said) if said == "ok" => Ok(()),
        Ok(reason) => Err(OpenError::Corrupt { path: path.to_owned(), reason }),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).map(|count| count == 0)
}

fn unusable(path: &Path, error: &rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let (path, reason) = (path.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => OpenError::Corrupt { path, reason },
        _ => OpenError::Unusable { path, reason },
    }
}

fn insert(transaction: &Transaction<'_>, entry: &Entry) -> rusqlite::Result<u64> {
    let mut detail = serde_json::to_value(&entry.fact).map_err(invalid)?;
    let kind = detail.as_object_mut().and_then(|object| object.remove("kind"));
    let kind = kind.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
    let at = entry.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    transaction.execute(
        "INSERT INTO events (at_ms, by, kind, service, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![i64::try_from(at).unwrap_or(i64::MAX), entry.by, kind, entry.fact.service(), detail.to_string()],
    )?;
    Ok(from_sql(transaction.last_insert_rowid()))
}

fn make(transaction: &Transaction<'_>, change: &Lasting) -> rusqlite::Result<()> {
    match change {
        Lasting::SetWeights(live) => set_override(transaction, live),
        Lasting::EndWeights(service) => end_override(transaction, service.as_str()),
        Lasting::SetDrain(drain) => set_drain(transaction, drain),
        Lasting::EndDrain(service, backend) => {
            let sql = "DELETE FROM drains WHERE service = ?1 AND backend = ?2";
            transaction.execute(sql, [service.as_str(), backend.as_str()]).map(|_| ())
        }
        Lasting::SetGuard(mode) => set_guard(transaction, *mode),
        Lasting::SetMirror(live) => set_mirror(transaction, live),
        Lasting::EndMirror(service, backend) => end_mirror(transaction, service, backend),
        Lasting::SetDeployment(live) => {
            let text = serde_json::to_string(live).map_err(invalid)?;
            let sql = "INSERT OR REPLACE INTO deployments VALUES (?1, ?2)";
            transaction.execute(sql, [live.service.as_str(), &text]).map(|_| ())
        }
        Lasting::EndDeployment(service) => {
            let sql = "DELETE FROM deployments WHERE service = ?1";
            transaction.execute(sql, [service.as_str()]).map(|_| ())
        }
        Lasting::SetRollout(memory) => set_rollout(transaction, memory),
        Lasting::SetRoll(roll) => {
            let text = serde_json::to_string(roll).map_err(invalid)?;
            let name = roll_setting(&roll.service, &roll.backend);
            transaction.execute("INSERT OR REPLACE INTO settings VALUES (?1, ?2)", [name, text]).map(|_| ())
        }
        Lasting::EndRoll(service, backend) => {
            let name = roll_setting(service, backend);
            transaction.execute("DELETE FROM settings WHERE name = ?1", [name]).map(|_| ())
        }
    }
}

fn set_rollout(transaction: &Transaction<'_>, memory: &RolloutMemory) -> rusqlite::Result<()> {
    let (service, id) = (memory.service.as_str(), memory.id);
    transaction.execute(
        "INSERT OR REPLACE INTO rollouts VALUES (?1, ?2, ?3)",
        params![service, to_sql(id), memory.record.to_string()],
    )?;
    let oldest = to_sql(id.saturating_sub(ROLLOUTS_MAX));
    transaction.execute("DELETE FROM rollouts WHERE service = ?1 AND id <= ?2", params![service, oldest])?;
    Ok(())
}

fn set_override(transaction: &Transaction<'_>, live: &LiveWeights) -> rusqlite::Result<()> {
    end_override(transaction, live.service.as_str())?;
    let mut statement = transaction.prepare("INSERT INTO overrides VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for (position, ((backend, weight), (_, replaced))) in live.weights.iter().zip(&live.replaced).enumerate() {
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        statement.execute(params![
            live.service.as_str(),
            position,
            backend.as_str(),
            weight.value(),
            replaced.value()
        ])?;
    }
    Ok(())
}

fn set_drain(transaction: &Transaction<'_>, drain: &Drain) -> rusqlite::Result<()> {
    let at = drain.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    transaction.execute(
        "INSERT OR REPLACE INTO drains VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            drain.service.as_str(),
            drain.backend.as_str(),
            drain.revision,
            drain.by,
            i64::try_from(at).unwrap_or(i64::MAX),
            drain.reason,
            drain.times,
            drain.probation
        ],
    )?;
    // A person's drain of what the guard has never drained tells nothing about it.
    if drain.times > 0 {
        let (service, backend) = (drain.service.as_str(), drain.backend.as_str());
        transaction.execute(
            "INSERT OR REPLACE INTO past_drains VALUES (?1, ?2, ?3, ?4)",
            params![service, backend, drain.revision, drain.times],
        )?;
    }
    Ok(())
}

fn set_guard(transaction: &Transaction<'_>, mode: Option<GuardMode>) -> rusqlite::Result<()> {
    match mode {
        Some(mode) => transaction.execute("INSERT OR REPLACE INTO settings VALUES ('guard', ?1)", [mode.name()])?,
        None => transaction.execute("DELETE FROM settings WHERE name = 'guard'", [])?,
    };
    Ok(())
}

/// What the name of a cursor begins with; its sink's follows.
const CURSOR_SETTING: &str = "cursor ";

fn roll_setting(service: &ServiceName, backend: &BackendName) -> String {
    format!("roll {service}/{backend}")
}

/// What the name of a mirror's setting begins with; a service and a backend follow, whose names have no slash.
const MIRROR_SETTING: &str = "mirror ";
/// The same for what comparing its answers has come to.
const SHADOW_SETTING: &str = "shadow ";

fn set_mirror(transaction: &Transaction<'_>, live: &LiveMirror) -> rusqlite::Result<()> {
    let name = format!("{MIRROR_SETTING}{}/{}", live.service, live.backend);
    let value = format!("[{}, {}]", live.percent, live.replaced);
    transaction.execute("INSERT OR REPLACE INTO settings VALUES (?1, ?2)", [name, value]).map(|_| ())
}

fn end_mirror(transaction: &Transaction<'_>, service: &ServiceName, backend: &BackendName) -> rusqlite::Result<()> {
    let name = format!("{MIRROR_SETTING}{service}/{backend}");
    transaction.execute("DELETE FROM settings WHERE name = ?1", [name]).map(|_| ())
}

fn end_override(transaction: &Transaction<'_>, service: &str) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM overrides WHERE service = ?1", [service]).map(|_| ())
}

/// What is in the file but can't be.
fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
}

/// SQLite's integers have a sign; ids and counts stay far below the difference.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn told(at_ms: i64) -> String {
    let at: SystemTime = UNIX_EPOCH + Duration::from_millis(from_sql(at_ms));
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::journal::Fact;

    fn live(service: &str, weights: &[(&str, f64, f64)]) -> LiveWeights {
        let side = |pick: fn(&(&str, f64, f64)) -> f64| {
            weights.iter().map(|w| (w.0.parse().unwrap(), Weight::new(pick(w)).unwrap())).collect()
        };
        LiveWeights { service: service.parse().unwrap(), weights: side(|w| w.1), replaced: side(|w| w.2) }
    }

    fn changed(service: &str) -> Entry {
        let fact = Fact::WeightsChanged { service: service.into(), from: [].into(), to: [("a".into(), 0.1)].into() };
        Entry::now("test", fact)
    }

    fn open(folder: &tempfile::TempDir) -> Database {
        Database::open(&folder.path().join("journal.db")).unwrap()
    }

    fn query(limit: usize) -> Query {
        Query { limit, ..Query::default() }
    }

    #[test]
    fn what_was_written_is_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let shop = live("shop", &[("blue", 0.1, 90.0), ("canary", 1e-9, 10.0)]);
        let entry = changed("shop").with(Lasting::SetWeights(shop.clone()));
        assert_eq!(open(&folder).write(&entry).unwrap(), 1);
        let database = open(&folder);
        assert_eq!(database.overrides().unwrap(), [shop]);
        assert_eq!(database.latest().unwrap(), 1);
        let page = database.read(&query(10)).unwrap();
        assert_eq!((page.events.len(), page.more), (1, false));
        assert_eq!(page.events[0].kind, "weights_changed");
        assert_eq!(page.events[0].detail["to"]["a"], 0.1);
        assert!(page.events[0].detail.get("kind").is_none());
    }

    #[test]
    fn an_override_replaces_the_one_before_and_ends_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = open(&folder);
        for weights in [&[("a", 1.0, 1.0), ("b", 2.0, 1.0), ("c", 3.0, 1.0)][..], &[("a", 5.0, 1.0), ("b", 0.0, 1.0)]] {
            database.write(&changed("shop").with(Lasting::SetWeights(live("shop", weights)))).unwrap();
        }
        database.write(&changed("api").with(Lasting::SetWeights(live("api", &[("x", 1.0, 2.0)])))).unwrap();
        let kept = live("shop", &[("a", 5.0, 1.0), ("b", 0.0, 1.0)]);
        assert_eq!(database.overrides().unwrap(), [live("api", &[("x", 1.0, 2.0)]), kept.clone()]);
        database.write(&changed("api").with(Lasting::EndWeights("api".parse().unwrap()))).unwrap();
        assert_eq!(database.overrides().unwrap(), [kept]);
    }

    fn past_of(service: &str, backend: &str) -> PastDrains {
        let (service, backend) = (service.parse().unwrap(), backend.parse().unwrap());
        PastDrains { service, backend, revision: String::new(), times: 1 }
    }

    #[test]
    fn what_must_hold_besides_weights_is_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let drain = Drain {
            service: "shop".parse().unwrap(),
            backend: "canary".parse().unwrap(),
            revision: "sha256:1".into(),
            by: None,
            at: UNIX_EPOCH + Duration::from_millis(1_234),
            reason: "server failures".into(),
            times: 2,
            probation: Some(0.01),
            until: None,
        };
        let trial = |revision: &str, failures| TrialMemory {
            service: "shop".parse().unwrap(),
            backend: "canary".parse().unwrap(),
            revision: revision.into(),
            failures,
        };
        let mut database = open(&folder);
        database.write(&changed("shop").with(Lasting::SetDrain(Drain { times: 1, ..drain.clone() }))).unwrap();
        database.write(&changed("shop").with(Lasting::SetDrain(drain.clone()))).unwrap();
        database.write(&changed("shop").with(Lasting::SetGuard(Some(GuardMode::Observe)))).unwrap();
        let percent = |value| Percent::new(value).unwrap();
        let (service, backend) = ("shop".parse().unwrap(), "canary".parse().unwrap());
        let mirror = LiveMirror { service, backend, percent: percent(0.001), replaced: percent(100.0) };
        database.write(&changed("shop").with(Lasting::SetMirror(mirror.clone()))).unwrap();
        database.remember(&[trial("1", [1, 2, 3, 4])]).unwrap();
        database.remember(&[trial("2", [5, 6, 7, 8])]).unwrap();
        drop(database);
        let mut database = open(&folder);
        let kept = database.kept().unwrap();
        assert_eq!((kept.drains, kept.guard), (vec![drain.clone()], Some(GuardMode::Observe)));
        assert_eq!(kept.mirrors, [mirror]);
        assert_eq!(kept.trials, [trial("2", [5, 6, 7, 8])]);
        let end = Lasting::EndDrain("shop".parse().unwrap(), "canary".parse().unwrap());
        database.write(&changed("shop").with(end)).unwrap();
        database.write(&changed("shop").with(Lasting::SetGuard(None))).unwrap();
        let end = Lasting::EndMirror("shop".parse().unwrap(), "canary".parse().unwrap());
        database.write(&changed("shop").with(end)).unwrap();
        let kept = database.kept().unwrap();
        assert_eq!((kept.drains, kept.guard, kept.mirrors), (vec![], None, vec![]));
        let past = |times| PastDrains { revision: "sha256:1".into(), times, ..past_of("shop", "canary") };
        assert_eq!(kept.past_drains, [past(2)], "that it was drained is not forgotten");
        let persons = Drain { by: Some("ada".into()), revision: "sha256:2".into(), times: 0, ..drain };
        database.write(&changed("shop").with(Lasting::SetDrain(persons))).unwrap();
        assert_eq!(database.kept().unwrap().past_drains, [past(2)]);
    }

    #[test]
    fn a_file_of_the_first_version_gets_the_tables_of_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("journal.db")).unwrap();
        connection.execute_batch(TABLES).unwrap();
        connection.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        drop(connection);
        let mut database = open(&folder);
        let live = live("shop", &[("a", 1.0, 2.0)]);
        database.write(&changed("shop").with(Lasting::SetWeights(live.clone()))).unwrap();
        drop(database);
        assert_eq!(open(&folder).kept().unwrap(), Kept { weights: vec![live], ..Kept::default() });
    }

    #[test]
    fn deployments_and_the_latest_rollouts_are_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let service: ServiceName = "shop".parse().unwrap();
        let deployment = Deployment::none(service.clone());
        let rollout = |id: u64| {
            let record = serde_json::json!({ "revision": id.to_string() });
            Lasting::SetRollout(RolloutMemory { service: service.clone(), id, record })
        };
        let mut database = open(&folder);
        // One entry changes several things at once.
        database
            .write(&changed("shop").with(Lasting::SetDeployment(deployment.clone())).with(rollout(1)).with(rollout(2)))
            .unwrap();
        database.write(&changed("shop").with(rollout(ROLLOUTS_MAX + 1))).unwrap();
        drop(database);
        let mut database = open(&folder);
        let kept = database.kept().unwrap();
        assert_eq!(kept.deployments, [deployment]);
        assert_eq!(kept.rollouts.iter().map(|memory| memory.id).collect::<Vec<_>>(), [2, ROLLOUTS_MAX + 1]);
        assert_eq!(kept.rollouts[0].record["revision"], "2");
        database.write(&changed("shop").with(Lasting::EndDeployment(service))).unwrap();
        assert_eq!(database.kept().unwrap().deployments, []);
    }

    #[test]
    fn a_file_of_the_second_version_tells_how_often_what_is_drained_was() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("journal.db")).unwrap();
        connection.execute_batch(TABLES).unwrap();
        connection.execute_batch(TABLES_2).unwrap();
        let drains = "INSERT INTO drains VALUES ('shop', 'canary', 'sha:1', NULL, 1, '', 2, NULL), \
                      ('shop', 'green', 'sha:1', 'ada', 1, '', 0, NULL)";
        connection.execute(drains, []).unwrap();
        connection.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        connection.pragma_update(None, "user_version", 2).unwrap();
        drop(connection);
        let kept = open(&folder).kept().unwrap();
        assert_eq!(kept.drains.len(), 2);
        assert_eq!(kept.past_drains, [PastDrains { revision: "sha:1".into(), times: 2, ..past_of("shop", "canary") }]);
    }

    #[test]
    fn pages_go_both_ways_and_know_whether_there_is_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = open(&folder);
        for n in 0..5 {
            database.write(&changed(if n % 2 == 0 { "even" } else { "odd" })).unwrap();
        }
        let ids = |query: &Query| {
            let page = database.read(query).unwrap();
            (page.events.iter().map(|event| event.id).collect::<Vec<_>>(), page.more)
        };
        assert_eq!(ids(&query(2)), (vec![4, 5], true));
        assert_eq!(ids(&Query { before: Some(4), ..query(2) }), (vec![2, 3], true));
        assert_eq!(ids(&Query { before: Some(2), ..query(2) }), (vec![1], false));
        assert_eq!(ids(&Query { after: Some(1), ..query(2) }), (vec![2, 3], true));
        assert_eq!(ids(&Query { after: Some(3), ..query(2) }), (vec![4, 5], false));
        assert_eq!(ids(&Query { service: Some("odd".into()), ..query(9) }), (vec![2, 4], false));
    }

    #[test]
    fn the_oldest_events_go_and_their_ids_are_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = open(&folder);
        database.write(&changed("shop")).unwrap();
        let near = EVENTS_MAX + PRUNE_EVERY - 1;
        database.connection.execute("UPDATE sqlite_sequence SET seq = ?1", [to_sql(near)]).unwrap();
        assert_eq!(database.write(&changed("shop")).unwrap(), near + 1);
        let page = database.read(&query(9)).unwrap();
        assert_eq!(page.events.iter().map(|event| event.id).collect::<Vec<_>>(), [near + 1]);
    }

    #[test]
    fn a_file_that_is_not_ours_to_use_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE theirs (x)").unwrap();
        drop(connection);
        let before = fs::read(&path).unwrap();
        assert!(matches!(Database::open(&path), Err(OpenError::Foreign { .. })));
        assert_eq!(fs::read(&path).unwrap(), before);

        fs::remove_file(&path).unwrap();
        drop(open(&folder));
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let before = fs::read(&path).unwrap();
        let error = Database::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Newer { version: 99, .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);

        fs::write(&path, "this is no database, and long enough to be looked at".repeat(100)).unwrap();
        let error = Database::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        assert!(fs::read(&path).unwrap().starts_with(b"this is no"));
    }

    #[test]
    fn a_damaged_page_is_found_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let mut database = open(&folder);
        (0..200).for_each(|_| {
            database.write(&changed("shop")).unwrap();
        });
        drop(database);
        let mut bytes = fs::read(&path).unwrap();
        let page = 4096;
        let middle = bytes.len() / 2 / page * page;
        bytes[middle..middle + page].fill(0xa5);
        fs::write(&path, &bytes).unwrap();
        let error = Database::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}
