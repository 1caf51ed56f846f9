//! How operators see the records with SQL.

use super::RecordView;

/// The views over what a coordinator writes down.
pub const VIEWS: &[RecordView] = &[
    RecordView { record_type: "account", columns: &[("created", "$.created")] },
    RecordView {
        record_type: "apikey",
        columns: &[
            ("account", "$.account"),
            ("scope", "$.scope"),
            ("label", "$.label"),
            ("created", "$.created"),
            ("ending", "$.ending"),
        ],
    },
    RecordView {
        record_type: "settlement",
        columns: &[
            ("account", "$.account"),
            ("key", "$.key"),
            ("model", "$.model"),
            ("state", "$.state"),
            ("prompt_tokens", "$.usage.prompt_tokens"),
            ("completion_tokens", "$.usage.completion_tokens"),
            ("submitted", "$.submitted"),
            ("first_chunk_ms", "$.first_chunk_ms"),
            ("took_ms", "$.took_ms"),
            ("attempts", "$.attempts"),
            ("sealed", "$.sealed"),
        ],
    },
    RecordView {
        record_type: "promise",
        columns: &[
            ("owner", "$.owner"),
            ("declared", "$.declared"),
            ("kept", "$.kept"),
            ("broken", "$.broken"),
        ],
    },
    RecordView {
        record_type: "usage",
        columns: &[
            ("day", "$.day"),
            ("month", "$.month"),
            ("requests_today", "$.requests_today"),
            ("requests_this_month", "$.requests_this_month"),
            ("tokens_today", "$.tokens_today"),
            ("tokens_this_month", "$.tokens_this_month"),
        ],
    },
    RecordView {
        record_type: "receipt",
        columns: &[
            ("node", "$.node"),
            ("client_task", "$.client_task"),
            ("request", "$.request"),
            ("receipt", "$.receipt"),
            ("at", "$.at"),
        ],
    },
    RecordView {
        record_type: "inference",
        columns: &[
            ("account", "$.account"),
            ("model", "$.model"),
            ("state", "$.state"),
            ("created", "$.created"),
            ("expires", "$.expires"),
            ("finished", "$.finished"),
            ("node", "$.node"),
            ("mode", "$.mode"),
            ("priority", "$.priority"),
        ],
    },
    RecordView {
        record_type: "evidence",
        columns: &[
            ("task", "$.task"),
            ("unit", "$.unit"),
            ("model", "$.model"),
            ("agreed", "$.agreed"),
            ("dissent", "$.dissent"),
            ("at", "$.at"),
        ],
    },
    RecordView {
        record_type: "event",
        columns: &[
            ("at", "$.at"),
            ("node", "$.node"),
            ("owner", "$.owner"),
            ("what", "$.what"),
            ("deed", "$.deed"),
            ("passed", "$.passed"),
            ("kept", "$.kept"),
        ],
    },
    RecordView {
        record_type: "movement",
        columns: &[("cause", "$.cause"), ("at", "$.at"), ("postings", "$.postings")],
    },
    RecordView {
        record_type: "hold",
        columns: &[("hold", "$.hold"), ("reason", "$.reason"), ("since", "$.since")],
    },
    RecordView {
        record_type: "month",
        columns: &[
            ("policy", "$.policy"),
            ("pool", "$.pool"),
            ("carried", "$.carried"),
            ("owners", "$.owners"),
            ("closed", "$.closed"),
            ("release", "$.release"),
            ("done", "$.done"),
        ],
    },
    RecordView {
        record_type: "share",
        columns: &[
            ("epoch", "$.epoch"),
            ("owner", "$.owner"),
            ("amount", "$.amount"),
            ("weight", "$.weight"),
            ("state", "$.state"),
            ("at", "$.at"),
            ("rail", "$.rail"),
            ("reference", "$.reference"),
        ],
    },
    RecordView {
        record_type: "model",
        columns: &[("name", "$.name"), ("first", "$.first"), ("last", "$.last")],
    },
];
