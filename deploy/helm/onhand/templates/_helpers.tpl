{{/* What the chart knows of each service: the variables that name its addresses, what it talks to, the consumer group whose lag scales it, and how its session timeout and its own name are set. */}}
{{- define "onhand.facts" -}}
ingest:
  session: INGEST_SESSION
  api: LISTEN
  admin: ADMIN_LISTEN
  needs: [redis, apikeys]
  topic: orders.in
ledger-projector:
  session: LEDGER_SESSION
  api: LISTEN
  admin: ADMIN_LISTEN
  needs: [redis, apikeys]
  topic: stock.events
allocator:
  session: ALLOCATOR_SESSION
  instance: ALLOCATOR_INSTANCE
  api: LISTEN
  admin: ADMIN_LISTEN
  needs: [apikeys]
  topic: stock.levels
channel-pusher:
  session: PUSHER_SESSION
  api: ""
  admin: ADMIN_LISTEN
  needs: [tokens]
  topic: ""
analytics:
  session: ANALYTICS_SESSION_TIMEOUT
  api: LISTEN
  admin: ADMIN_LISTEN
  needs: [clickhouse, apikeys]
  topic: ""
{{- end }}

{{- define "onhand.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "onhand.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "onhand.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* Labels that select the pods of one service. Call with (dict "root" $ "name" NAME). */}}
{{- define "onhand.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "onhand.labels" -}}
{{ include "onhand.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Settings of one service as environment variables; what services.NAME.env says wins. Call with (dict "root" $ "name" NAME "facts" FACTS). */}}
{{- define "onhand.env" -}}
{{- $env := include "onhand.ownEnv" . | fromYaml -}}
{{- range $k, $v := (index .root.Values.services .name).env }}{{ $_ := set $env $k (toString $v) }}{{ end -}}
{{- toYaml $env -}}
{{- end }}

{{- define "onhand.ownEnv" -}}
{{- $v := .root.Values -}}
{{- $needs := .facts.needs -}}
KAFKA_BROKERS: {{ join "," $v.kafka.brokers | quote }}
KAFKA_PARTITIONS: {{ $v.kafka.partitions | quote }}
KAFKA_REPLICATION: {{ $v.kafka.replication | quote }}
{{- if $v.kafka.tls.enabled }}
KAFKA_TLS: "true"
{{- if $v.kafka.tls.caSecret }}
KAFKA_CA_FILE: {{ printf "/etc/onhand/kafka-ca/%s" $v.kafka.tls.caKey | quote }}
{{- end }}
{{- if $v.kafka.tls.clientSecret }}
KAFKA_CERT_FILE: /etc/onhand/kafka-client/tls.crt
KAFKA_KEY_FILE: /etc/onhand/kafka-client/tls.key
{{- end }}
{{- end }}
{{- if $v.kafka.sasl.mechanism }}
KAFKA_SASL_MECHANISM: {{ $v.kafka.sasl.mechanism | quote }}
KAFKA_SASL_USER: {{ $v.kafka.sasl.user | quote }}
KAFKA_SASL_PASSWORD_FILE: {{ printf "/etc/onhand/kafka-sasl/%s" $v.kafka.sasl.passwordKey | quote }}
{{- end }}
{{- if $v.schemaRegistry.url }}
SCHEMA_REGISTRY_URL: {{ $v.schemaRegistry.url | quote }}
{{- end }}
LOG_LEVEL: {{ $v.telemetry.logLevel | quote }}
LOG_FORMAT: {{ $v.telemetry.logFormat | quote }}
{{- if $v.telemetry.otlpEndpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ $v.telemetry.otlpEndpoint | quote }}
{{- end }}
TRACE_RATIO: {{ $v.telemetry.traceRatio | quote }}
{{- if has "redis" $needs }}
REDIS_ADDRS: {{ join "," $v.redis.addrs | quote }}
{{- if $v.redis.username }}
REDIS_USERNAME: {{ $v.redis.username | quote }}
{{- end }}
{{- if $v.redis.existingSecret }}
REDIS_PASSWORD_FILE: {{ printf "/etc/onhand/redis/%s" $v.redis.passwordKey | quote }}
{{- end }}
{{- if $v.redis.tls.enabled }}
REDIS_TLS: "true"
{{- if $v.redis.tls.caSecret }}
REDIS_CA_FILE: {{ printf "/etc/onhand/redis-ca/%s" $v.redis.tls.caKey | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if has "clickhouse" $needs }}
CLICKHOUSE_URL: {{ $v.clickhouse.url | quote }}
CLICKHOUSE_DATABASE: {{ $v.clickhouse.database | quote }}
CLICKHOUSE_USER: {{ $v.clickhouse.user | quote }}
{{- if $v.clickhouse.caSecret }}
CLICKHOUSE_CA_FILE: {{ printf "/etc/onhand/clickhouse-ca/%s" $v.clickhouse.caKey | quote }}
{{- end }}
{{- if $v.clickhouse.existingSecret }}
CLICKHOUSE_PASSWORD_FILE: {{ printf "/etc/onhand/clickhouse/%s" $v.clickhouse.passwordKey | quote }}
{{- end }}
{{- end }}
{{- if has "apikeys" $needs }}
API_KEYS_FILE: {{ printf "/etc/onhand/api-keys/%s" $v.apiKeys.key | quote }}
{{- end }}
{{- if and (has "tokens" $needs) $v.channelTokens.existingSecret }}
SECRETS_DIR: /etc/onhand/channel-tokens
{{- end }}
{{- with (index $v.services .name).sessionTimeout }}
{{ $.facts.session }}: {{ . | quote }}
{{- end }}
{{- with .facts.api }}
{{ . }}: ":8080"
{{- end }}
{{ .facts.admin }}: ":9090"
{{- end }}

{{/* Secrets that one service mounts, as YAML: folder under /etc/onhand -> Secret. */}}
{{- define "onhand.secrets" -}}
{{- $v := .root.Values -}}
{{- $needs := .facts.needs -}}
{{- $out := dict -}}
{{- if $v.kafka.tls.enabled -}}
{{- with $v.kafka.tls.caSecret }}{{ $_ := set $out "kafka-ca" . }}{{ end -}}
{{- with $v.kafka.tls.clientSecret }}{{ $_ := set $out "kafka-client" . }}{{ end -}}
{{- end -}}
{{- if $v.kafka.sasl.mechanism }}{{ $_ := set $out "kafka-sasl" (required "kafka.sasl.existingSecret: name the Secret that holds the password" $v.kafka.sasl.existingSecret) }}{{ end -}}
{{- if has "redis" $needs -}}
{{- with $v.redis.existingSecret }}{{ $_ := set $out "redis" . }}{{ end -}}
{{- if $v.redis.tls.enabled }}{{ with $v.redis.tls.caSecret }}{{ $_ := set $out "redis-ca" . }}{{ end }}{{ end -}}
{{- end -}}
{{- if has "clickhouse" $needs -}}
{{- with $v.clickhouse.existingSecret }}{{ $_ := set $out "clickhouse" . }}{{ end -}}
{{- with $v.clickhouse.caSecret }}{{ $_ := set $out "clickhouse-ca" . }}{{ end -}}
{{- end -}}
{{- if has "apikeys" $needs }}{{ $_ := set $out "api-keys" $v.apiKeys.existingSecret }}{{ end -}}
{{- if has "tokens" $needs }}{{ with $v.channelTokens.existingSecret }}{{ $_ := set $out "channel-tokens" . }}{{ end }}{{ end -}}
{{- toYaml $out -}}
{{- end }}
