-- The truth about documents. Vectors in Chroma can be made again from here; passages not here are never shown.
CREATE TABLE IF NOT EXISTS collections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL DEFAULT '',      -- the key it belongs to; '' = shared
    embedder TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1, -- counts reindexings; names the Chroma collection
    version INTEGER NOT NULL DEFAULT 0,  -- counts changes of vectors, for readers that hold the index open
    chunk_chars INTEGER NOT NULL,
    created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    collection_id INTEGER NOT NULL REFERENCES collections(id) ON DELETE CASCADE,
    source TEXT NOT NULL,                -- the file's absolute path, as the disk spells it
    name TEXT NOT NULL,                  -- what people see, NFC
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    modified REAL NOT NULL,              -- of the file, seconds since 1970
    pages INTEGER NOT NULL,
    empty_pages TEXT NOT NULL,           -- JSON list
    ocr INTEGER NOT NULL,
    added REAL NOT NULL,
    UNIQUE (collection_id, source)
);
CREATE TABLE IF NOT EXISTS passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice, so a late vector cannot meet a new passage
    document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    page INTEGER NOT NULL,
    last_page INTEGER NOT NULL,
    heading TEXT NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    text TEXT NOT NULL,
    hash BLOB NOT NULL,                  -- of what is embedded
    embedded INTEGER NOT NULL DEFAULT 0, -- 1: its vector is in Chroma
    UNIQUE (document_id, ordinal)
);
CREATE INDEX IF NOT EXISTS passages_waiting ON passages (document_id) WHERE embedded = 0;
CREATE INDEX IF NOT EXISTS passages_hash ON passages (hash);
CREATE TABLE IF NOT EXISTS vectors (     -- every vector paid for, by what was embedded
    hash BLOB NOT NULL,
    embedder TEXT NOT NULL,
    vector BLOB NOT NULL,                -- float16, little-endian
    PRIMARY KEY (hash, embedder)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS doomed (      -- passages gone from here whose vectors may still be in Chroma
    chroma TEXT NOT NULL,
    passage_id INTEGER NOT NULL,         -- 0: the whole Chroma collection
    PRIMARY KEY (chroma, passage_id)
) WITHOUT ROWID;
