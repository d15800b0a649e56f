package roster

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParseTotal(t *testing.T) {
	const notWhole = " is not a whole number from 4 to 9007199254740991: write for example 4000, first the total and then the file of branches"
	tests := []struct {
		text string
		want uint64
		err  string
	}{
		{"4000", 4000, ""},
		{"4", 4, ""},
		{"0004000", 4000, ""},
		{"9007199254740991", MaxTotal, ""},
		{"9007199254740992", 0, "total 9007199254740992 is more than 9007199254740991, the most that a bank can hold"},
		{"99999999999999999999999", 0, "total 99999999999999999999999 is more than 9007199254740991, the most that a bank can hold"},
		{"3", 0, "total 3 is less than 1 for each of 4 branches: write at least 4"},
		{"0", 0, "total 0 is less than 1 for each of 4 branches: write at least 4"},
		{"-4000", 0, `total "-4000"` + notWhole},
		{"+4000", 0, `total "+4000"` + notWhole},
		{"4000.5", 0, `total "4000.5"` + notWhole},
		{"4e3", 0, `total "4e3"` + notWhole},
		{"0x10", 0, `total "0x10"` + notWhole},
		{"4,000", 0, `total "4,000"` + notWhole},
		{"4_000", 0, `total "4_000"` + notWhole},
		{" 4000", 0, `total " 4000"` + notWhole},
		{"٤٠٠٠", 0, `total "٤٠٠٠"` + notWhole},
		{"", 0, `total ""` + notWhole},
		{"branches.txt", 0, `total "branches.txt"` + notWhole},
	}
	for _, test := range tests {
		got, err := ParseTotal(test.text, 4)
		message := ""
		if err != nil {
			message = err.Error()
		}
		if got != test.want || message != test.err {
			t.Errorf("%q: %d, %s\nwant %d, %s", test.text, got, message, test.want, test.err)
		}
	}
}

func TestShares(t *testing.T) {
	for _, test := range []struct {
		total uint64
		n     int
		want  []uint64
	}{
		{4000, 4, []uint64{1000, 1000, 1000, 1000}},
		{4003, 4, []uint64{1001, 1001, 1001, 1000}},
		{10, 3, []uint64{4, 3, 3}},
		{2, 2, []uint64{1, 1}},
		{MaxTotal, 2, []uint64{1 << 52, 1<<52 - 1}},
		{4000, 0, nil},
	} {
		if diff := cmp.Diff(test.want, Shares(test.total, test.n)); diff != "" {
			t.Errorf("%d over %d (-want +got):\n%s", test.total, test.n, diff)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, MaxBranches).Draw(t, "n")
		total := rapid.Uint64Range(uint64(n), MaxTotal).Draw(t, "total")
		sum, shares := uint64(0), Shares(total, n)
		for i, share := range shares {
			sum += share
			if share > shares[0] || share+1 < shares[0] || share < 1 || (i > 0 && share > shares[i-1]) {
				t.Fatalf("share %d of %v", i, shares)
			}
		}
		if sum != total || len(shares) != n {
			t.Fatalf("%d shares sum to %d", len(shares), sum)
		}
	})
}

func TestDataDir(t *testing.T) {
	got := fmt.Sprint(DataDir("/etc/bank/branches.txt", 4000), " ", ControllerDataDir("branches.txt", 4000))
	if want := "data/branches.txt-4000 data/controller-branches.txt-4000"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
