; A state stays between runs, so no input may overwrite it.
; expect: structure: state 0 `cache`: it shares bytes with `x`
object "state-shares-bytes" target "mtia-300" hbm 1024 sram 0

state "cache" f32 (8) hbm:16

entry e0 "main" {
  input "x" f32 (8) hbm:0
  code:
    halt
}

weights 0 {
}
