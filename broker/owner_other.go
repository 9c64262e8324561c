//go:build !unix

package broker

import "os"

func takeOwner(*os.File, os.FileInfo) error { return nil }
