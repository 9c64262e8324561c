package main

import (
	"fmt"
	"unicode/utf8"
)

// didYouMean returns " (did you mean …?)" with the known word that is nearest to a wrong one, "" if none is near.
func didYouMean(wrong string, known []string) string {
	best, least := "", utf8.RuneCountInString(wrong)/3+2
	for _, k := range known {
		if d := distance(wrong, k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

// distance is how many letters must be added, removed or changed to make b of a.
func distance(a, b string) int {
	to := []rune(b)
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i, r := range []rune(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j, s := range to {
			change := diagonal
			if r != s {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(to)]
}
