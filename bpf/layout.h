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

/* Connections of one leaf at a time, so that none of them takes the room of the others. */
#define LEAF_CONNECTIONS 8192

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
	u64 start_ns; /* when the process was forked, 0 if that is not known; see process.c */
	u32 image;
	u32 pending; /* its outcome has not been told */
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
	RECORD_FORK = 16,   /* ring events, like all of process.c */
	RECORD_EXEC = 17,
	RECORD_EXIT = 18,
};

enum {
	REASON_UNREGISTERED = 1, /* its leaf is not registered */
	REASON_NETNS = 2,        /* a network namespace that is not the leaf's */
	REASON_UDP = 3,          /* shared placement, UDP that is not DNS */
	REASON_TYPE = 4,         /* an inet socket that is neither TCP nor UDP */
	REASON_UNIX = 5,         /* the workload may not connect unix sockets */
	REASON_MAP_FULL = 6,     /* no room to remember who connects */
	REASON_QUOTA = 7,        /* the leaf has all the room that one may have */
};

struct refusal {
	struct heading heading;
	u32 family;
	u32 type;
	u32 protocol;
	u32 port; /* host order, 0 where there is none */
	u32 addr[4];
};

/* A dial that was answered, or came to nothing. The heading says who dialled, and when. */
struct flow {
	struct heading heading;
	struct tuple tuple;
	u64 start_ns;
	u32 image;
	u32 established;
};

/* Processes of one leaf at a time that are followed, so that none of them takes the room of the others. */
#define LEAF_PROCESSES 8192

/* What a process runs: count goes up with each execve(2). leaf: whose room it takes. */
struct image {
	u64 start_ns;
	u64 leaf;
	u32 count;
	u32 threaded;
};

/* The heading is the parent's; the child was forked at its at_ns. */
struct fork {
	struct heading heading;
	u64 parent_start_ns; /* 0: not known */
	u32 parent_image;
	u32 child;
};

#define WORDS 16
#define WORD 64

/* A command line: the beginning of each of its first words. */
struct words {
	u32 count;
	u32 unread; /* a bit for each that could not be read */
	u32 more;   /* there were more, or it is not known */
	u32 gap;
	char word[WORDS][WORD];
};

struct exec {
	struct heading heading;
	u64 start_ns;
	u32 image;
	u32 gap;
	char filename[256];
	struct words words;
};

struct end {
	struct heading heading;
	u64 start_ns;
};

/* Indices of the array `losses`. */
enum {
	LOST_REFUSALS = 0, /* ring refusals was full */
	LOST_EVENTS = 1,   /* ring events was full */
	LOST_TUPLES = 2,   /* by_tuple was full */
	LOST_PROCESSES = 3, /* a leaf made more processes than are recorded one by one, or has more than one may have */
	LOSSES = 4,
};
