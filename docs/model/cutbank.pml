/* cutbank's link and snapshot protocol, for the model checker spin.
 *
 * N branches, one connection per pair, one snapshot. Branches crash, connections are
 * reset, old connections keep bytes in their buffers, commits happen at any boundary,
 * and (with -DRESTORES) an operator puts an old data directory in place. Spin tries
 * every order of these steps. README.md says what is left out, and why that is sound.
 *
 * How to read it: Books are what a branch knows. ledger[i] is branch i in memory,
 * journal[i] the same on disk. A commit copies ledger to journal, a crash copies
 * journal to ledger. Everything in a d_step is one indivisible step. A switch such
 * as SEND_BEFORE_DURABLE removes one rule: spin must then find an error.
 */
#ifndef N
#define N 2             /* branches */
#endif
#ifndef TRANSFERS
#define TRANSFERS 2     /* transfers that each branch may make */
#endif
#ifndef AMOUNTS
#define AMOUNTS 1       /* a transfer moves 1..AMOUNTS (at most 2) */
#endif
#ifdef RING             /* who may pay whom */
#define PAYS(i, j) (j == (i + 1) % N)
#else
#define PAYS(i, j) true
#endif
#ifndef INITIATORS
#define INITIATORS 1    /* bit set of the branches that the controller may ask to start */
#endif
#define OPENING 2       /* balance of each branch at the start */
#define TOTAL   (N * OPENING)

/* An item is a transfer of 1 or 2, or a marker. A log packs the items of one channel, in order. */
#define MARKER         3
#define ROOM           4                               /* items in a log */
#define ITEM(log, n)   (((log) >> (2*(n))) & 3)        /* number n, counted from 0 */
#define PREFIX(log, n) ((log) & ((1 << (2*(n))) - 1))  /* the first n: stands for the content hash */
#define BIT(i)         (1 << (i))
#define OTHERS(i)      ((BIT(N) - 1) & ~BIT(i))

typedef Books {
  byte balance; byte paid;              /* paid: transfers made so far */
  byte sent[N]; byte outbox[N];         /* to each peer: count and content of all items */
  byte received[N]; byte inbox[N];      /* from each peer: the same */
  byte acked[N];                        /* what the peer has acknowledged */
  bool recorded; byte closed;           /* the snapshot; closed: peers whose marker came */
  byte cut_balance; byte in_transit[N];
  byte cut_sent[N]; byte cut_received[N]
}
Books ledger[N], journal[N];
bool dirty[N];                          /* the ledger is ahead of the journal */
byte met[N];                            /* peers that branch i exchanged verified hellos with since its start */

/* One direction of the connection of a pair: items head..tail-1 are on their way. */
typedef Wire { byte head; byte tail; byte items }
#define CH(src, dst) ((src)*N + (dst))
Wire wire[N*N];
bool up[N*N];                           /* of the pair (a, b), a < b: both ends agreed on hellos */
#define PAIR(a, b) ((a) < (b) -> CH(a, b) : CH(b, a))

byte answer[N];                         /* 1 + money in branch i's part of the cut, 0: not told yet */
bool I1 = true, I2 = true, I3 = true, I4 = true, I6 = true, I7 = true; /* docs of each: README.md */
hidden byte k, n, x, y;                 /* scratch inside a d_step; not part of the state */

/* ---- rules that the switches remove ---- */
#ifdef SEND_BEFORE_DURABLE
#define SENDABLE(i) ledger[i]
#else
#define SENDABLE(i) journal[i]
#endif
#ifdef ACK_BEFORE_DURABLE
#define ACKABLE(i) ledger[i]
#else
#define ACKABLE(i) journal[i]
#endif

/* The receiver takes number x from src only if it is the next one by its ledger. */
#if defined(NO_DEDUPE)
#define IS_NEXT(src, dst) true
#elif defined(ANY_NEWER)
#define IS_NEXT(src, dst) (x >= ledger[dst].received[src])
#elif defined(POSITION_PER_CONNECTION)
byte position[N*N];                     /* starts at the count that the hello told */
#define IS_NEXT(src, dst) (x == position[CH(src, dst)])
#else
#define IS_NEXT(src, dst) (x == ledger[dst].received[src])
#endif

/* Fences of the channel src -> dst, compared in the hello. dst tells its durable count and hash. */
#define TOLD(src, dst) journal[dst].received[src]
#ifdef NO_COUNT_FENCE
#define COUNTS_FIT(src, dst) true
#else
#define COUNTS_FIT(src, dst) (TOLD(src, dst) <= ledger[src].sent[dst] \
                           && TOLD(src, dst) >= ledger[src].acked[dst] \
                           && ledger[dst].received[src] <= journal[src].sent[dst])
#endif
#ifdef NO_HASH_FENCE
#define CONTENT_FITS(src, dst) true
#else                                   /* the sender keeps hashes from what is acknowledged to what was sent */
#define CONTENT_FITS(src, dst) (TOLD(src, dst) < ledger[src].acked[dst] || TOLD(src, dst) > ledger[src].sent[dst] \
  || PREFIX(ledger[src].outbox[dst], TOLD(src, dst)) == PREFIX(journal[dst].inbox[src], TOLD(src, dst)))
#endif
#define FITS(src, dst) (COUNTS_FIT(src, dst) && CONTENT_FITS(src, dst))
#ifdef HELLO_WAITS                      /* a hello leaves when all that was applied is durable */
#define SETTLED(i) (!dirty[i])
#else
#define SETTLED(i) true
#endif
#ifdef NO_BARRIER
#define MAY_ACT(i) true
#else
#define MAY_ACT(i) (met[i] == OTHERS(i))
#endif
/* Ready: on the connection that is up, i says so when it and all its peers have agreed. Until then nobody
   sends it items, and what its hello told does not count as acknowledged. */
#define READY(i, j) (up[PAIR(i, j)] && MAY_ACT(i))
#ifdef ACK_AT_POSITION
#define ACKS(i, j) up[PAIR(i, j)]
#else
#define ACKS(i, j) READY(i, j)
#endif

/* ---- a branch's books ---- */
inline copy(to, from) {
  to.balance = from.balance; to.paid = from.paid; to.recorded = from.recorded; to.closed = from.closed;
  to.cut_balance = from.cut_balance;
  for (k : 0 .. N-1) {
    to.sent[k] = from.sent[k]; to.outbox[k] = from.outbox[k]; to.received[k] = from.received[k];
    to.inbox[k] = from.inbox[k]; to.acked[k] = from.acked[k]; to.in_transit[k] = from.in_transit[k];
    to.cut_sent[k] = from.cut_sent[k]; to.cut_received[k] = from.cut_received[k]
  }
}

inline append(payer, payee, what) {
#ifdef MARKER_OVERTAKEN                 /* a transfer passes a marker that is not durable yet */
  n = ledger[payer].sent[payee];
  if :: what != MARKER && n > journal[payer].sent[payee] && ITEM(ledger[payer].outbox[payee], n-1) == MARKER ->
        ledger[payer].outbox[payee] = PREFIX(ledger[payer].outbox[payee], n-1) | (what << (2*(n-1))) | (MARKER << (2*n))
     :: else -> ledger[payer].outbox[payee] = ledger[payer].outbox[payee] | (what << (2*n))
  fi;
#else
  ledger[payer].outbox[payee] = ledger[payer].outbox[payee] | (what << (2*ledger[payer].sent[payee]));
#endif
  ledger[payer].sent[payee]++
}

inline send_markers(i) { for (k : 0 .. N-1) { if :: k != i -> append(i, k, MARKER) :: else fi } }

/* Chandy-Lamport, marker sending rule: record, then a marker on every channel before any other item. */
#ifdef MARKERS_IN_SEPARATE_BATCH
bool owes[N];                           /* in memory only: markers still to be put in the outbox */
#define OWES_MARKERS(i) owes[i]
#else
#define OWES_MARKERS(i) false
#endif
inline record(i) {
  ledger[i].recorded = true; ledger[i].cut_balance = ledger[i].balance;
  for (k : 0 .. N-1) { ledger[i].cut_sent[k] = ledger[i].sent[k]; ledger[i].cut_received[k] = ledger[i].received[k] }
#ifdef MARKERS_IN_SEPARATE_BATCH
  owes[i] = true
#else
  send_markers(i)
#endif
}

/* dst applies the next item of the channel. Marker receiving rule: the first marker
   records, each marker closes its channel; until then transfers count as in transit. */
inline apply(src, dst, item) {
  ledger[dst].inbox[src] = ledger[dst].inbox[src] | (item << (2*ledger[dst].received[src]));
  ledger[dst].received[src]++; dirty[dst] = true;
  if :: item == MARKER ->
        ledger[dst].closed = ledger[dst].closed | BIT(src);
        if :: !ledger[dst].recorded -> record(dst); ledger[dst].cut_received[src] = ledger[dst].received[src]
           :: else fi
     :: else ->
        ledger[dst].balance = ledger[dst].balance + item;
        if :: ledger[dst].recorded && !(ledger[dst].closed & BIT(src)) ->
              ledger[dst].in_transit[src] = ledger[dst].in_transit[src] + item
           :: else fi
  fi
}

/* ---- what must hold ---- */
#define COMPLETE(i) (journal[i].recorded && journal[i].closed == OTHERS(i))

#ifdef ANSWER_WHEN_MARKERS_ACKED        /* every peer durably knows of the recording before anyone else does */
#define ACKED_MARKER(i, j) ((j) == (i) || journal[i].acked[j] > journal[i].cut_sent[j])
#if N == 2
#define ANSWERS(i) (ACKED_MARKER(i, 0) && ACKED_MARKER(i, 1))
#else
#define ANSWERS(i) (ACKED_MARKER(i, 0) && ACKED_MARKER(i, 1) && ACKED_MARKER(i, 2))
#endif
#else
#define ANSWERS(i) true
#endif

inline money(log, from_n, to_n, sum) {  /* adds the transfers from_n..to_n-1 of the log to sum */
  for (n : from_n .. to_n) { if :: n < to_n && ITEM(log, n) != MARKER -> sum = sum + ITEM(log, n) :: else fi }
}

inline check() {
#ifndef RESTORES
  for (k : 0 .. N-1) { for (y : 0 .. N-1) { if :: k != y -> /* I3: received is a prefix of sent */
    I3 = I3 && journal[y].received[k] <= journal[k].sent[y] &&
               PREFIX(journal[k].outbox[y], journal[y].received[k]) == journal[y].inbox[k] :: else fi } }
  assert(I3);
#endif
  for (k : 0 .. N-1) {                  /* the controller reads every part that is complete */
    if :: COMPLETE(k) && MAY_ACT(k) && ANSWERS(k) ->
          x = 1 + journal[k].cut_balance;
          for (y : 0 .. N-1) { x = x + journal[k].in_transit[y] }
          I6 = (answer[k] == 0 || answer[k] == x); assert(I6);
          answer[k] = x
       :: else fi }
  x = 0; y = 0;
  for (k : 0 .. N-1) { if :: answer[k] -> x = x + answer[k] - 1; y++ :: else fi }
  if :: y == N -> I1 = (x == TOTAL); assert(I1)
     :: else fi;
  for (k : 0 .. N-1) { for (y : 0 .. N-1) { if :: k != y && answer[k] && answer[y] && COMPLETE(k) && COMPLETE(y) -> /* I2: per channel k -> y */
    x = 0; money(journal[k].outbox[y], 0, journal[k].cut_sent[y], x);
    x = x - journal[y].in_transit[k];
    for (n : 0 .. ROOM-1) { if :: n < journal[y].cut_received[k] && ITEM(journal[y].inbox[k], n) != MARKER ->
      x = x - ITEM(journal[y].inbox[k], n) :: else fi }
    I2 = (x == 0); assert(I2) :: else fi } };
  k = 0; n = 0; x = 0; y = 0
}
/* I7: a branch does nothing while some peer durably knows something newer of it. */
inline check_not_old(i) {
#ifdef RESTORES
  for (k : 0 .. N-1) { if :: k != i ->
    I7 = I7 && journal[k].received[i] <= ledger[i].sent[k] && journal[k].acked[i] <= ledger[i].received[k] &&
               PREFIX(ledger[i].outbox[k], journal[k].received[i]) == journal[k].inbox[i] :: else fi };
#ifndef I1_ONLY
  assert(I7);
#else
  I7 = true;
#endif
  k = 0
#else
  skip
#endif
}

/* ---- faults ---- */
#ifdef FAULTS                           /* bounded: afterwards everything must drain */
byte faults = FAULTS;
#define MAY_FAIL (faults > 0)
#define FAIL faults--
#else
#define MAY_FAIL true
#define FAIL skip
#endif

inline clear(w) { w.head = 0; w.tail = 0; w.items = 0 }

#ifdef STALE_READER                     /* an old connection is still read after the new hello */
Wire old[N*N];
inline retire(src, dst) {
  if :: old[CH(src, dst)].tail == 0 && wire[CH(src, dst)].head < wire[CH(src, dst)].tail ->
        old[CH(src, dst)].head = wire[CH(src, dst)].head; old[CH(src, dst)].tail = wire[CH(src, dst)].tail;
        old[CH(src, dst)].items = wire[CH(src, dst)].items
     :: else fi;
  clear(wire[CH(src, dst)])
}
#else
inline retire(src, dst) { clear(wire[CH(src, dst)]) }
#endif

inline crash(i) {                       /* what it sent may still be read by its peers; what it had not read is gone */
  for (k : 0 .. N-1) {
    if :: k != i -> clear(wire[CH(k, i)]); up[PAIR(i, k)] = false;
          if :: wire[CH(i, k)].head == wire[CH(i, k)].tail -> clear(wire[CH(i, k)]) :: else fi
#ifdef STALE_READER
          ; clear(old[CH(k, i)])
#endif
       :: else fi }
#ifdef RECORDING_NOT_JOURNALED
  journal[i].recorded = false; journal[i].closed = 0; journal[i].cut_balance = 0;
  for (k : 0 .. N-1) { journal[i].in_transit[k] = 0; journal[i].cut_sent[k] = 0; journal[i].cut_received[k] = 0 }
#endif
#ifdef MARKERS_IN_SEPARATE_BATCH
  owes[i] = false;
#endif
  copy(ledger[i], journal[i]); dirty[i] = false; met[i] = 0; k = 0
}

/* ---- the processes ---- */
inline receive(src, dst, w) {
  x = w.head; y = ITEM(w.items, x);
  w.items = w.items & ~(3 << (2*x)); w.head++;
  if :: IS_NEXT(src, dst) -> check_not_old(dst); apply(src, dst, y);
#ifdef POSITION_PER_CONNECTION
        position[CH(src, dst)]++
#endif
     :: else fi
}

#define CAN_PAY(src, dst, amount) (MAY_ACT(src) && PAYS(src, dst) && ledger[src].paid < TRANSFERS \
  && ledger[src].balance >= amount && ledger[src].sent[dst] < ROOM - 1 && !OWES_MARKERS(src))
inline pay(src, dst, amount) {          /* balance down and item in the outbox: one step */
  check_not_old(src);
  ledger[src].balance = ledger[src].balance - amount; ledger[src].paid++;
  append(src, dst, amount); dirty[src] = true
}

proctype Channel(byte src, dst) {
end: do
  :: d_step { CAN_PAY(src, dst, 1) -> pay(src, dst, 1) }
#if AMOUNTS > 1
  :: d_step { CAN_PAY(src, dst, 2) -> pay(src, dst, 2) }
#endif
  :: d_step { /* send the next durable item */
       MAY_ACT(src) && READY(dst, src) && wire[CH(src, dst)].tail < SENDABLE(src).sent[dst] ->
       check_not_old(src); n = wire[CH(src, dst)].tail;
       wire[CH(src, dst)].items = wire[CH(src, dst)].items | (ITEM(SENDABLE(src).outbox[dst], n) << (2*n));
       wire[CH(src, dst)].tail++ }
  :: d_step { /* receive; also what is left in the buffer of a dead connection, until the next hello */
       MAY_ACT(dst) && wire[CH(src, dst)].head < wire[CH(src, dst)].tail && ledger[dst].received[src] < ROOM ->
       receive(src, dst, wire[CH(src, dst)]);
       if :: !up[PAIR(src, dst)] && wire[CH(src, dst)].head == wire[CH(src, dst)].tail -> clear(wire[CH(src, dst)]) :: else fi }
#ifdef STALE_READER
  :: d_step { MAY_ACT(dst) && old[CH(src, dst)].head < old[CH(src, dst)].tail && ledger[dst].received[src] < ROOM ->
       receive(src, dst, old[CH(src, dst)]);
       if :: old[CH(src, dst)].head == old[CH(src, dst)].tail -> clear(old[CH(src, dst)]) :: else fi }
#endif
#ifndef NO_ACKS
  :: d_step { /* a cumulative ack of what is durable arrives, or Ready with the count of the hello before it */
       ACKS(dst, src) && ledger[src].acked[dst] < ACKABLE(dst).received[src] ->
       ledger[src].acked[dst] = ACKABLE(dst).received[src]; dirty[src] = true }
#endif
  od
}

/* After the hellos the sender goes on from what the peer durably has (never from what it has dropped). */
inline start_at(src, dst) {
  wire[CH(src, dst)].head = (TOLD(src, dst) > ledger[src].acked[dst] -> TOLD(src, dst) : ledger[src].acked[dst]);
  wire[CH(src, dst)].tail = wire[CH(src, dst)].head;
#ifdef POSITION_PER_CONNECTION
  position[CH(src, dst)] = TOLD(src, dst)
#endif
}

proctype Connection(byte a, b) {
end: do
  :: d_step { /* reset or partition: what is buffered at either end may still be read */
       MAY_FAIL && up[PAIR(a, b)] -> FAIL; up[PAIR(a, b)] = false;
       if :: wire[CH(a, b)].head == wire[CH(a, b)].tail -> clear(wire[CH(a, b)]) :: else fi;
       if :: wire[CH(b, a)].head == wire[CH(b, a)].tail -> clear(wire[CH(b, a)]) :: else fi }
  :: d_step { /* hellos that fit; a hello that does not fit is refused: no connection */
       !up[PAIR(a, b)] && SETTLED(a) && SETTLED(b) && FITS(a, b) && FITS(b, a) ->
       retire(a, b); retire(b, a); start_at(a, b); start_at(b, a); up[PAIR(a, b)] = true;
       met[a] = met[a] | BIT(b); met[b] = met[b] | BIT(a); check() }
  od
}

proctype Branch(byte i) {
end: do
  :: d_step { dirty[i] -> copy(journal[i], ledger[i]); dirty[i] = false; check() } /* commit: one sync */
  :: d_step { MAY_FAIL -> FAIL; crash(i); check() }
  :: d_step { (INITIATORS & BIT(i)) && MAY_ACT(i) && !ledger[i].recorded -> /* InitSnapshot; repeats change nothing */
       check_not_old(i); record(i); dirty[i] = true }
#ifdef MARKERS_IN_SEPARATE_BATCH
  :: d_step { owes[i] -> owes[i] = false; send_markers(i); dirty[i] = true }
#endif
  od
}

#ifdef RESTORES
/* The operator copies the directory of branch 0 (or sees the disk lose its tail), and puts
   the copy in place while the present one is moved aside: RESTORES times, back and forth.
   wrong: the one in place is older than what a peer durably knows; what it replaced was right, and is when it is back. */
Books copies[2]; bool saved, wrong; byte restores;
#define KNOWS_NEWER(k) (journal[k].received[0] > journal[0].sent[k] || journal[k].acked[0] > journal[0].received[k] \
  || PREFIX(journal[0].outbox[k], journal[k].received[0]) != journal[k].inbox[0])
#ifdef FAULTS                           /* what is on its way from branch 0 would make a right one wrong later */
#define ARRIVED(k) (!dirty[k] && wire[CH(0, k)].head == wire[CH(0, k)].tail)
#if N == 2
#define OPERATES ARRIVED(1)
#else
#define OPERATES (ARRIVED(1) && ARRIVED(2))
#endif
#else
#define OPERATES true
#endif
proctype Operator() {
end: do
  :: d_step { !saved && RESTORES > 0 -> saved = true; copy(copies[0], journal[0]); k = 0 }
  :: d_step { saved && restores < RESTORES && OPERATES -> restores++;
       copy(copies[1], journal[0]); copy(journal[0], copies[0]); copy(copies[0], copies[1]); crash(0);
       if :: wrong -> wrong = false
          :: else -> for (k : 1 .. N-1) { wrong = wrong || KNOWS_NEWER(k) }; k = 0
       fi;
#ifndef CONTROLLER_REMEMBERS
       answer[0] = 0;                   /* the controller asks again */
#endif
       check() }
  od
}
#endif

#if defined(FAULTS) && !defined(NO_ACKS)
#define DRAIN
proctype Drain() {                      /* I4: faults are used up and nothing can move any more */
  timeout -> d_step {
    x = 0;
    for (k : 0 .. N-1) { x = x + journal[k].balance; I4 = I4 && (COMPLETE(k) || INITIATORS == 0);
      for (y : 0 .. N-1) { I4 = I4 && journal[k].acked[y] == journal[k].sent[y] } }
    I4 = I4 && x == TOTAL;
#ifdef RESTORES
    I4 = I4 || wrong;                   /* its operator ends with a wrong one in place */
#endif
    assert(I4) }
}
#endif

init { atomic {
  for (k : 0 .. N-1) { ledger[k].balance = OPENING; journal[k].balance = OPENING };
  run Branch(0); run Branch(1); run Connection(0, 1); run Channel(0, 1); run Channel(1, 0);
#if N > 2
  run Branch(2); run Connection(0, 2); run Connection(1, 2);
  run Channel(0, 2); run Channel(2, 0); run Channel(1, 2); run Channel(2, 1);
#endif
#ifdef RESTORES
  run Operator();
#endif
#ifdef DRAIN
  run Drain();
#endif
} }
