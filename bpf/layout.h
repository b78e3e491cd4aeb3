/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What programs and enforcerd hand to each other. hostagent/enforcer/bpf/layout.py says the same in Python; at every compile
 * it adds assertions about each size and offset to this text, so that the two cannot drift apart.
 *
 * Fixed-width types, natural alignment, no implicit padding. Addresses and ports are in network order unless stated.
 */

enum {
	FLAG_PROVING = 1, /* enforcerd's own canary: the nft table alone must refuse it */
	FLAG_SHARED = 2,  /* in the host's network namespace: no UDP but DNS and loopback */
	FLAG_NO_UNIX = 4, /* no connection to any unix socket */
};

/* What enforcerd registers before a program starts in a leaf. No entry means no. */
struct leaf_rule {
	u64 netns; /* cookie of the only network namespace that the leaf may use */
	u32 flags;
	u32 number;
};

struct tuple {
	u64 netns;
	u32 family; /* AF_INET or AF_INET6 */
	u16 sport;  /* host order */
	u16 dport;  /* host order */
	u32 saddr[4];
	u32 daddr[4];
};

/* Who connected a socket, by the kernel's word at the time of connect(2). */
struct origin {
	u64 leaf;
	u64 netns;
	u64 at_ns; /* since boot, suspended time included (CLOCK_BOOTTIME) */
	u32 tgid;
	u32 tid;
	u32 uid;
	u32 gid;
	char comm[16];
	struct tuple tuple; /* zero until the kernel has chosen the local port */
};

/* Each record in a ring begins with this. */
struct heading {
	u32 kind;
	u32 reason;
	u64 at_ns;
	u64 leaf;
	u64 netns;
	u64 cookie;
	u32 tgid;
	u32 tid;
	u32 uid;
	u32 gid;
	char comm[16];
};

enum {
	RECORD_REFUSAL = 1, /* ring refusals */
	RECORD_FLOW = 2,    /* ring events */
	/* 16 and up: process.c */
};

enum {
	REASON_UNREGISTERED = 1, /* its leaf is not registered */
	REASON_NETNS = 2,        /* a network namespace that is not the leaf's */
	REASON_UDP = 3,          /* shared placement, UDP that is not DNS */
	REASON_TYPE = 4,         /* an inet socket that is neither TCP nor UDP */
	REASON_UNIX = 5,         /* the workload may not connect unix sockets */
	REASON_MAP_FULL = 6,     /* no room to remember who connects */
};

struct refusal {
	struct heading heading;
	u32 family;
	u32 type;
	u32 protocol;
	u32 port; /* host order, 0 where there is none */
	u32 addr[4];
};

struct flow {
	struct heading heading;
	struct tuple tuple;
};

/* Indices of the array `losses`. */
enum {
	LOST_REFUSALS = 0, /* ring refusals was full */
	LOST_EVENTS = 1,   /* ring events was full */
	LOST_TUPLES = 2,   /* by_tuple was full */
	LOSSES = 4,
};
