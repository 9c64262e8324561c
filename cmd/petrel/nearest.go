package main

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// didYouMean returns " (did you mean …?)" with the known word that is nearest to a wrong one, "" if none is near.
func didYouMean(wrong string, known []string) string { return didYouMeanFlag("", wrong, known) }

// didYouMeanFlag is didYouMean for words that people write behind dashes.
func didYouMeanFlag(dashes, wrong string, known []string) string {
	best, least := "", max(2, utf8.RuneCountInString(wrong)/3+1)
	for _, k := range known {
		if d := distance(wrong, k); d < least {
			best, least = k, d
		}
	}
	for _, k := range known {
		if best == "" && len(wrong) > 2 && strings.Contains(k, wrong) {
			best = k
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s%s?)", dashes, best)
}

// distance is how many letters must be added, removed, changed or swapped with the next one to make b of a.
func distance(a, b string) int {
	from, to := []rune(a), []rune(b)
	rows := make([][]int, len(from)+1)
	for i := range rows {
		rows[i] = make([]int, len(to)+1)
		rows[i][0] = i
	}
	for j := range to {
		rows[0][j+1] = j + 1
	}
	for i, r := range from {
		for j, s := range to {
			change := rows[i][j]
			if r != s {
				change++
			}
			d := min(change, rows[i][j+1]+1, rows[i+1][j]+1)
			if i > 0 && j > 0 && r == to[j-1] && from[i-1] == s {
				d = min(d, rows[i-1][j-1]+1)
			}
			rows[i+1][j+1] = d
		}
	}
	return rows[len(from)][len(to)]
}
