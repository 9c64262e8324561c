package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// stage is where a release is tried: a copy of the tree, and a proxy that has its modules.
type stage struct {
	*tree   // the copy
	scratch string
	version string
	env     []string // for the go command, which gets the modules from the proxy
}

// newStage makes a stage in a folder of its own, until close.
func (t *tree) newStage(ctx context.Context) (*stage, error) {
	version, err := t.version()
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp("", "release-*")
	if err != nil {
		return nil, err
	}
	s := &stage{scratch: scratch, version: version}
	if s.tree, err = t.copyTo(ctx, filepath.Join(scratch, "tree")); err == nil {
		err = s.publish(filepath.Join(scratch, "proxy"), version)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, s.setEnvironment(ctx)
}

func (s *stage) close() error { return os.RemoveAll(s.scratch) }

// setEnvironment has the go command look at the stage's modules first. No module of theirs is in the checksum database.
func (s *stage) setEnvironment(ctx context.Context) error {
	said, err := command{folder: s.scratch, env: []string{"GOWORK=off"}}.run(ctx, "go", "env", "GOPROXY", "GOMODCACHE")
	if err != nil {
		return err
	}
	proxies, cache, _ := strings.Cut(strings.TrimSpace(said), "\n")
	local := "file://" + filepath.ToSlash(filepath.Join(cache, "cache", "download")) // what others have downloaded need not come again
	s.env = []string{
		"GOWORK=off", "GOTOOLCHAIN=local",
		"GOPROXY=file://" + filepath.ToSlash(filepath.Join(s.scratch, "proxy")) + "," + local + "," + withoutDirect(proxies),
		"GONOSUMDB=" + s.root().path() + "*",
		"GOFLAGS=-modcacherw",
	}
	return nil
}

// withoutDirect leaves out version control systems, which would be asked for the folders above a module.
func withoutDirect(proxies string) string {
	if shorter := strings.TrimRight(strings.TrimSuffix(proxies, "direct"), ",|"); shorter != "" {
		return shorter
	}
	return cmp.Or(proxies, "off")
}

// smoke are programs that use a module, by its folder. What has no program of its own here is only downloaded and built.
var smoke = map[string]string{
	".": `
import (
	"context"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

func main() {
	b := mqtttest.New()
	defer b.Close()
	client, err := mqtt.NewClient(context.Background(), "mqtt://test", mqtt.WithDialer(b.DialContext))
	must(err)
	must(client.Publish(context.Background(), "a", []byte("x"), mqtt.AtLeastOnce))
	must(client.Close())
}
`,
	"scram": `
import (
	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/scram"
)

func main() {
	_ = mqtt.WithAuthenticator(scram.SHA256("me", "secret"))
}
`,
	"broker": `
import (
	"context"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/broker"
)

func main() {
	c := broker.DefaultConfig()
	c.Listeners = []broker.Listener{{Name: "test", Type: "tcp", Bind: "127.0.0.1:0"}}
	b, err := broker.New(c)
	must(err)
	must(b.Start(context.Background()))
	client, err := mqtt.NewClient(context.Background(), b.URLs()[0])
	must(err)
	must(client.Publish(context.Background(), "a", []byte("x"), mqtt.AtLeastOnce))
	must(client.Close())
	must(b.Shutdown(context.Background()))
}
`,
}

const must = `
func must(err error) {
	if err != nil {
		panic(err)
	}
}
`

// ourImport is an import of a package of ours in these programs.
var ourImport = regexp.MustCompile(`"(github\.com/petrel-mqtt/[^"]+)"`)

// rehearse publishes the modules where nobody else sees them, and does what users do: go get of each module alone in an
// empty folder, a small program with it, and go install of the commands.
func (t *tree) rehearse(ctx context.Context) (err error) {
	s, err := t.newStage(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.checkSkew(); err != nil {
		return err
	}
	s.env = append(s.env, "GOMODCACHE="+filepath.Join(s.scratch, "cache"))
	for _, m := range s.released() {
		use := s.get
		if m.isCommand(s.folder) {
			use = s.install
		}
		if err := use(ctx, m); err != nil {
			return fmt.Errorf("%s: %w", m.path(), err)
		}
		fmt.Printf("%s@%s can be used\n", m.path(), s.version)
	}
	return nil
}

// isCommand reports whether the module is a command.
func (m *mod) isCommand(folder string) bool {
	text, err := os.ReadFile(filepath.Join(folder, filepath.FromSlash(m.folder), "main.go"))
	return err == nil && strings.Contains(string(text), "\npackage main\n")
}

// get uses a library.
func (s *stage) get(ctx context.Context, m *mod) error {
	folder := filepath.Join(s.scratch, "use", m.folder)
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	program, known := smoke[m.folder]
	if !known {
		program = "\nimport _ \"" + m.path() + "\"\n\nfunc main() {}\n"
	}
	if err := os.WriteFile(filepath.Join(folder, "main.go"), []byte("package main\n"+program+must), 0o666); err != nil {
		return err
	}
	c := command{folder: folder, env: s.env}
	get := []string{"get", m.path() + "@" + s.version}
	for _, imported := range ourImport.FindAllStringSubmatch(program, -1) {
		if imported[1] != m.path() { // for what the program needs besides
			get = append(get, imported[1]+"@"+s.version)
		}
	}
	for _, args := range [][]string{{"mod", "init", "example.com/use"}, get, {"build", "-o", "use", "."}} {
		if _, err := c.run(ctx, "go", args...); err != nil {
			return err
		}
	}
	_, err := c.run(ctx, filepath.Join(folder, "use"))
	return err
}

// install installs a command, which must say its version, and work.
func (s *stage) install(ctx context.Context, m *mod) error {
	bin := filepath.Join(s.scratch, "bin")
	c := command{folder: s.scratch, env: append(slices.Clone(s.env), "GOBIN="+bin)}
	if _, err := c.run(ctx, "go", "install", m.path()+"@"+s.version); err != nil {
		return err
	}
	program := filepath.Join(bin, filepath.Base(m.folder))
	said, err := c.run(ctx, program, "version")
	switch {
	case err != nil:
		return err
	case !strings.Contains(said, s.version):
		return fmt.Errorf("%s version says %q, and is %s", filepath.Base(program), said, s.version)
	}
	_, err = c.run(ctx, program, "bench", "pubsub", "--count", "100", "-q", "1") // with a broker of its own
	return err
}

// checkSkew makes sure that a module which uses internal packages of the root does not compile with another root.
func (s *stage) checkSkew() error {
	name := "release." + constantName(s.version)
	var errs error
	for _, m := range s.modules[1:] {
		uses, names, err := s.internals(m, name)
		errs = errors.Join(errs, err)
		if uses && !names {
			errs = errors.Join(errs, fmt.Errorf("%s uses internal packages of the root: it must name %s", m.path(), name))
		}
	}
	return errs
}

// internals reports whether a module uses internal packages of the root outside of tests, and whether it has a text.
func (s *stage) internals(m *mod, text string) (uses, has bool, err error) {
	folder := filepath.Join(s.folder, filepath.FromSlash(m.folder))
	err = filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		uses = uses || strings.Contains(string(source), "\""+s.root().path()+"/internal/")
		has = has || strings.Contains(string(source), text)
		return err
	})
	return uses, has, err
}

// constantName is the name of a version in Go: V0_1_0.
func constantName(version string) string {
	return "V" + strings.NewReplacer(".", "_", "-", "_", "+", "_").Replace(strings.TrimPrefix(version, "v"))
}
