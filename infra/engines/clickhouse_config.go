//go:build linux && amd64 && !noengines

// Below the story: ClickHouse's limits and users.

package engines

import (
	"fmt"
	"path/filepath"
	"strings"
	"text/template"
)

// clickHouseConfig keeps ClickHouse small on a machine that it shares: by itself it would take 90 % of the memory.
var clickHouseConfig = template.Must(template.New("config.xml").Parse(`<clickhouse>
  <users_config>users.xml</users_config>
  <logger>
    <console>1</console>
    <console_log_level>warning</console_log_level>
  </logger>
  <max_server_memory_usage>{{.MemoryBytes}}</max_server_memory_usage>
  <mark_cache_size>67108864</mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <index_mark_cache_size>16777216</index_mark_cache_size>
  <primary_index_cache_size>67108864</primary_index_cache_size>
  <mmap_cache_size>0</mmap_cache_size>
  <max_concurrent_queries>200</max_concurrent_queries>
</clickhouse>
`))

// clickHouseUsers let one user in, by password. The session that runs the child's script can only be the user default
// without a password; it is there before the child listens, and being allowed one session it keeps everybody else out.
var clickHouseUsers = template.Must(template.New("users.xml").Parse(`<clickhouse>
  <profiles>
    <default>
      <async_insert>0</async_insert>
      <query_profiler_real_time_period_ns>0</query_profiler_real_time_period_ns>
      <query_profiler_cpu_time_period_ns>0</query_profiler_cpu_time_period_ns>
    </default>
    <script>
      <max_sessions_for_user>1</max_sessions_for_user>
    </script>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <no_password/>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>script</profile>
      <quota>default</quota>
    </default>
    <{{.User}}>
      <password>{{.Password}}</password>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <access_management>1</access_management>
    </{{.User}}>
  </users>
</clickhouse>
`))

// writeClickHouseConfig writes both files at every start, so that a later version's settings reach an old directory.
func (s *station) writeClickHouseConfig(folder string) error {
	values := struct {
		User, Password string
		MemoryBytes    int64
	}{clickHouseUser, s.secrets.clickHousePassword, s.ClickHouseMemoryBytes}
	for _, file := range []*template.Template{clickHouseConfig, clickHouseUsers} {
		var text strings.Builder
		if err := file.Execute(&text, values); err != nil {
			return fmt.Errorf("write the configuration of clickhouse: %w", err)
		}
		if err := writeDurably(filepath.Join(folder, file.Name()), []byte(text.String())); err != nil {
			return err
		}
	}
	return nil
}
