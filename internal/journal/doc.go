// Package journal stores opaque commits durably and in order, in the files of
// one directory, and finds them again after any crash.
//
// It does group commit (the caller packs a batch of events into one commit: one
// write, one sync), checkpoints and recovery. It does not know what the bytes
// mean, start goroutines, lock the directory, or repair what is damaged.
//
// Invariant: what a recovery hands over is exactly the commits whose Commit
// returned nil, in order, and perhaps the one after them; or else the journal is
// refused. What was handed over is durable.
//
// # Files
//
// All integers are little-endian. Commits are numbered from 1.
//
//	00000000000000000001.segment     commits from 1 on
//	00000000000000000730.segment     commits from 730 on; the last one is written
//	00000000000000000650.checkpoint  the state after commit 650
//	*.segment.tmp, *.checkpoint.tmp  leftovers of an interrupted creation
//
// Other suffixes are not the journal's. A segment starts with a header, then
// come records; zeros follow to its fixed size, written and synced before its
// first record, so that a commit's sync needs no metadata:
//
//	segment, checkpoint            record: a commit, or the seal of a full segment
//	 0  magic     "cutbkseg|chk"    0  CRC-32C  u32, of the journal's id (8 bytes)
//	 8  version   u32                           and of all bytes that follow
//	12  CRC-32C   u32, of id+state  4  length   u32, n; 0 in a seal
//	              (checkpoint)      8  index    u64, of the commit; in a seal
//	16  id        u64, of the                   of the next segment's first
//	              journal          16  bytes    n
//	24  index     u64, first|last   +  mark     0x9e
//	32  size      u64, file|state   +  zeros    to a multiple of 8
//	40  zeros
//	60  CRC-32C   u32, of 0 to 59
//	64  records | state
//
// # Order of writes
//
//	commit      write record, sync
//	new segment create .tmp, write zeros and header, sync, rename, sync directory,
//	            write seal to the one before, sync, close it
//	checkpoint  create .tmp, write, sync, rename, sync directory,
//	            remove older segments and checkpoints, sync directory
//	recovery    read everything; write the last record again and zeros over a torn
//	            one; sync every file that was read; sync directory, remove
//	            leftovers, sync directory
//
// # Torn or corrupt
//
// A commit is written only after the one before it is durable, into zeros. So an
// interrupted write leaves, behind the last valid record, some sectors of 512
// bytes of one record and zeros for the others, or the beginning of one: that is
// torn and cut off; its Commit never returned nil. Anything else is corruption
// and refused: a damaged record that a valid one follows, or that lacks neither
// sector nor end, bytes behind its end, a segment without its seal that another
// follows, a seal without the segment that it announces, a file that is shorter
// than its header says, a number out of order.
//
// The limits of that rule: damage to the last record alone passes for a torn
// write when it leaves a whole sector of zeros, has a sector of zeros within its
// bytes, or makes the length larger; the commit is then lost, and it is the peers
// who notice. With the sync mode OS several commits are on their way at once and
// power loss may leave a hole, which is refused.
package journal
